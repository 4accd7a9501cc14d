// Loaded ahead of the C library (LD_PRELOAD): counts the calls below on files under one folder,
// and makes one of them fail, once or from then on, or ends the process there.
//
// Python's own calls and those of compiled libraries (tensorstore) come through here alike. What is
// to happen is said by `fault_arm`, by way of ctypes, or at the start by the environment:
// FAULT_FOLDER, FAULT_CALL, FAULT_NTH (from 1), FAULT_ERRNO (0: SIGKILL), FAULT_FOR (calls that fail;
// 0: all from then on). FAULT_TRACE names a file that gets a line for each change ("w inode") and
// sync ("s inode") of a file or directory of the folder, and for what gets a new name ("r inode").
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static char folder[4096], call[32];
static long nth, fails, seen, failed;
static int error, trace = -1;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

void fault_arm(const char *folder_, const char *call_, long nth_, int errno_, long for_) {
  pthread_mutex_lock(&lock);
  snprintf(folder, sizeof folder, "%s", folder_);
  snprintf(call, sizeof call, "%s", call_);
  nth = nth_, error = errno_, fails = for_, seen = failed = 0;
  pthread_mutex_unlock(&lock);
}

// Calls of that name since `fault_arm`, and how many of them failed.
long fault_seen(void) { return seen; }
long fault_failed(void) { return failed; }

__attribute__((constructor)) static void begin(void) {
  const char *path = getenv("FAULT_TRACE");
  if (path) trace = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  const char *folder_ = getenv("FAULT_FOLDER");
  if (!folder_) return;
  const char *call_ = getenv("FAULT_CALL"), *nth_ = getenv("FAULT_NTH");
  const char *errno_ = getenv("FAULT_ERRNO"), *for_ = getenv("FAULT_FOR");
  fault_arm(folder_, call_ ? call_ : "", nth_ ? atol(nth_) : 0, errno_ ? atoi(errno_) : 0,
            for_ ? atol(for_) : 1);
}

static int inside(const char *path) {
  return folder[0] && path && strstr(path, folder) != NULL;
}

static int of_fd(int fd) {
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  long n = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
  if (n < 0) return 0;
  path[n] = 0;
  return inside(path);
}

static int of_path(int dir, const char *path) {
  return inside(path) || (path && path[0] != '/' && dir >= 0 && of_fd(dir));
}

// 1 where the call is to fail: errno is set then.
static int strike(const char *name, int is_inside) {
  if (!is_inside) return 0;
  int hit = 0;
  pthread_mutex_lock(&lock);
  if (call[0] && !strcmp(name, call)) {
    seen++;
    hit = nth > 0 && seen >= nth && (fails == 0 || seen < nth + fails);
    failed += hit;
  }
  pthread_mutex_unlock(&lock);
  if (hit && !error) kill(getpid(), SIGKILL);
  if (hit) errno = error;
  return hit;
}

static void note(char what, int fd) {
  if (trace < 0 || !of_fd(fd)) return;
  struct stat about;
  if (syscall(SYS_fstat, fd, &about)) return;
  char line[64];
  int n = snprintf(line, sizeof line, "%c %lu\n", what, (unsigned long)about.st_ino);
  syscall(SYS_write, trace, line, n);
}

static void note_path(char what, int dir, const char *path) {
  if (trace < 0 || !of_path(dir, path)) return;
  struct stat about;
  if (syscall(SYS_newfstatat, dir < 0 ? AT_FDCWD : dir, path, &about, AT_SYMLINK_NOFOLLOW)) return;
  char line[64];
  int n = snprintf(line, sizeof line, "%c %lu\n", what, (unsigned long)about.st_ino);
  syscall(SYS_write, trace, line, n);
}

// The directory that a path is in has changed.
static void note_folder(int dir, const char *path) {
  if (trace < 0 || !path) return;
  char parent[4096];
  snprintf(parent, sizeof parent, "%s", path);
  char *slash = strrchr(parent, '/');
  if (slash == parent || !slash) return;
  *slash = 0;
  note_path('w', dir, parent);
}

#define NEXT(type, name, ...)                              \
  static type (*next)(__VA_ARGS__);                        \
  if (!next) next = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

#define OPEN(function)                                                        \
  int function(const char *path, int flags, ...) {                            \
    va_list list;                                                             \
    va_start(list, flags);                                                    \
    int mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(list, int) : 0;         \
    va_end(list);                                                             \
    NEXT(int, #function, const char *, int, ...);                             \
    if (strike("open", of_path(-1, path))) return -1;                         \
    int fd = next(path, flags, mode);                                         \
    if (fd >= 0 && flags & (O_CREAT | O_TRUNC)) note('w', fd), note_folder(-1, path); \
    return fd;                                                                \
  }
OPEN(open)
OPEN(open64)

#define OPENAT(function)                                                      \
  int function(int dir, const char *path, int flags, ...) {                   \
    va_list list;                                                             \
    va_start(list, flags);                                                    \
    int mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(list, int) : 0;         \
    va_end(list);                                                             \
    NEXT(int, #function, int, const char *, int, ...);                        \
    if (strike("open", of_path(dir, path))) return -1;                        \
    int fd = next(dir, path, flags, mode);                                    \
    if (fd >= 0 && flags & (O_CREAT | O_TRUNC)) note('w', fd), note_folder(dir, path); \
    return fd;                                                                \
  }
OPENAT(openat)
OPENAT(openat64)

#define FOPEN(function)                                                       \
  FILE *function(const char *path, const char *mode) {                        \
    NEXT(FILE *, #function, const char *, const char *);                      \
    if (strike("open", of_path(-1, path))) return NULL;                       \
    FILE *file = next(path, mode);                                            \
    if (file && mode[0] != 'r') note('w', fileno(file));                      \
    return file;                                                              \
  }
FOPEN(fopen)
FOPEN(fopen64)

#define OF_FD(type, name, function, what, values, names, ...)                 \
  type function values {                                                      \
    NEXT(type, #function, __VA_ARGS__);                                       \
    if (strike(name, of_fd(fd))) return -1;                                   \
    type result = next names;                                                 \
    if (what && result >= 0) note(what, fd);                                  \
    return result;                                                            \
  }
OF_FD(ssize_t, "read", read, 0, (int fd, void *to, size_t n), (fd, to, n), int, void *, size_t)
OF_FD(ssize_t, "read", pread, 0, (int fd, void *to, size_t n, off_t at), (fd, to, n, at), int, void *, size_t, off_t)
OF_FD(ssize_t, "read", pread64, 0, (int fd, void *to, size_t n, off64_t at), (fd, to, n, at), int, void *, size_t, off64_t)
OF_FD(ssize_t, "write", write, 'w', (int fd, const void *from, size_t n), (fd, from, n), int, const void *, size_t)
OF_FD(ssize_t, "write", pwrite, 'w', (int fd, const void *from, size_t n, off_t at), (fd, from, n, at), int, const void *, size_t, off_t)
OF_FD(ssize_t, "write", pwrite64, 'w', (int fd, const void *from, size_t n, off64_t at), (fd, from, n, at), int, const void *, size_t, off64_t)
OF_FD(ssize_t, "write", writev, 'w', (int fd, const struct iovec *from, int n), (fd, from, n), int, const struct iovec *, int)
OF_FD(int, "write", ftruncate, 'w', (int fd, off_t n), (fd, n), int, off_t)
OF_FD(int, "write", ftruncate64, 'w', (int fd, off64_t n), (fd, n), int, off64_t)
OF_FD(int, "fsync", fsync, 's', (int fd), (fd), int)
OF_FD(int, "fsync", fdatasync, 's', (int fd), (fd), int)
OF_FD(int, "flock", flock, 0, (int fd, int how), (fd, how), int, int)

// A failed close has closed, as on Linux.
int close(int fd) {
  NEXT(int, "close", int);
  int hit = strike("close", of_fd(fd)), saved = errno;
  int result = next(fd);
  if (!hit) return result;
  errno = saved;
  return -1;
}

static int made(int result, int dir, const char *path) {
  if (!result) note_folder(dir, path);
  return result;
}
static int renamed(int result, int a, const char *from, int b, const char *to) {
  if (!result) note_folder(a, from), note_folder(b, to), note_path('r', b, to);
  return result;
}

int mkdir(const char *path, mode_t mode) {
  NEXT(int, "mkdir", const char *, mode_t);
  return strike("mkdir", of_path(-1, path)) ? -1 : made(next(path, mode), -1, path);
}
int mkdirat(int dir, const char *path, mode_t mode) {
  NEXT(int, "mkdirat", int, const char *, mode_t);
  return strike("mkdir", of_path(dir, path)) ? -1 : made(next(dir, path, mode), dir, path);
}
int rename(const char *from, const char *to) {
  NEXT(int, "rename", const char *, const char *);
  if (strike("rename", of_path(-1, from) || of_path(-1, to))) return -1;
  return renamed(next(from, to), -1, from, -1, to);
}
int renameat(int a, const char *from, int b, const char *to) {
  NEXT(int, "renameat", int, const char *, int, const char *);
  if (strike("rename", of_path(a, from) || of_path(b, to))) return -1;
  return renamed(next(a, from, b, to), a, from, b, to);
}
int renameat2(int a, const char *from, int b, const char *to, unsigned flags) {
  NEXT(int, "renameat2", int, const char *, int, const char *, unsigned);
  if (strike("rename", of_path(a, from) || of_path(b, to))) return -1;
  return renamed(next(a, from, b, to, flags), a, from, b, to);
}
int unlink(const char *path) {
  NEXT(int, "unlink", const char *);
  return strike("unlink", of_path(-1, path)) ? -1 : next(path);
}
int unlinkat(int dir, const char *path, int flags) {
  NEXT(int, "unlinkat", int, const char *, int);
  const char *name = flags & AT_REMOVEDIR ? "rmdir" : "unlink";
  return strike(name, of_path(dir, path)) ? -1 : next(dir, path, flags);
}
int rmdir(const char *path) {
  NEXT(int, "rmdir", const char *);
  return strike("rmdir", of_path(-1, path)) ? -1 : next(path);
}
int link(const char *from, const char *to) {
  NEXT(int, "link", const char *, const char *);
  return strike("link", of_path(-1, to)) ? -1 : next(from, to);
}
int utimensat(int dir, const char *path, const struct timespec times[2], int flags) {
  NEXT(int, "utimensat", int, const char *, const struct timespec *, int);
  return strike("utime", path ? of_path(dir, path) : of_fd(dir)) ? -1 : next(dir, path, times, flags);
}
DIR *opendir(const char *path) {
  NEXT(DIR *, "opendir", const char *);
  return strike("opendir", of_path(-1, path)) ? NULL : next(path);
}
DIR *fdopendir(int fd) {
  NEXT(DIR *, "fdopendir", int);
  return strike("opendir", of_fd(fd)) ? NULL : next(fd);
}

#define STAT(function, type)                                                  \
  int function(const char *path, struct type *about) {                        \
    NEXT(int, #function, const char *, struct type *);                        \
    return strike("stat", of_path(-1, path)) ? -1 : next(path, about);        \
  }
STAT(stat, stat)
STAT(stat64, stat64)
STAT(lstat, stat)
STAT(lstat64, stat64)
int fstatat(int dir, const char *restrict path, struct stat *restrict about, int flags) {
  NEXT(int, "fstatat", int, const char *, struct stat *, int);
  return strike("stat", of_path(dir, path)) ? -1 : next(dir, path, about, flags);
}
int fstatat64(int dir, const char *restrict path, struct stat64 *restrict about, int flags) {
  NEXT(int, "fstatat64", int, const char *, struct stat64 *, int);
  return strike("stat", of_path(dir, path)) ? -1 : next(dir, path, about, flags);
}
