/* A disk that fails when told to: preloaded into a process (LD_PRELOAD), it stands between that process and libc.

   FAULTY_DISK_CONTROL names a file of six 32-bit numbers, mapped here, so that a test changes them while the process
   runs: milliseconds each fsync takes; errno of each fsync; of each write; of each mmap; bytes that may still be
   written (negative: no limit), then ENOSPC; how many fsyncs were made. FAULTY_DISK_FOLDER is the folder they hold for.
   FAULTY_DISK_LOG, if set, is a file that gets a record of everything that changes a file or folder there:
   a letter (c made, m folder made, w written, t truncated, s synced, u unlinked, r renamed), then path length, offset
   and data length as 64-bit numbers, path, data. A test replays it to see what a power cut would have left. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct control { volatile int32_t fsync_ms, fsync_errno, write_errno, mmap_errno, room, fsyncs; };

static struct control *control;
static const char *folder;
static size_t folder_length;
static int log_fd = -1;
static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name)) dlsym(RTLD_NEXT, #name)

static ssize_t raw_write(int fd, const void *data, size_t size) {
    REAL(write);
    return real(fd, data, size);
}

__attribute__((constructor)) static void start(void) {
    const char *name = getenv("FAULTY_DISK_CONTROL");
    int fd = name ? open(name, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *map = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (map == MAP_FAILED) return;
    const char *log = getenv("FAULTY_DISK_LOG");
    if (log) log_fd = open(log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
    folder = getenv("FAULTY_DISK_FOLDER");
    folder_length = folder ? strlen(folder) : 0;
    control = map;
}

/* Whether the path is the folder or in it. */
static int ours_path(const char *path) {
    return control && folder && strncmp(path, folder, folder_length) == 0 &&
           (path[folder_length] == '/' || path[folder_length] == 0);
}

static int ours(int fd, char path[PATH_MAX]) {
    if (!control) return 0;
    char link[40];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return ours_path(path);
}

static void record(char what, const char *path, uint64_t offset, const void *data, uint64_t size) {
    if (log_fd < 0) return;
    uint64_t head[3] = {strlen(path), offset, size};
    pthread_mutex_lock(&log_lock);
    raw_write(log_fd, &what, 1);
    raw_write(log_fd, head, sizeof head);
    raw_write(log_fd, path, head[0]);
    raw_write(log_fd, data, size);
    pthread_mutex_unlock(&log_lock);
}

/* Whether a write may not be done; errno says why. */
static int refused(size_t size) {
    if (control->write_errno) {
        errno = control->write_errno;
        return 1;
    }
    if (control->room >= 0) {
        if ((size_t) control->room < size) {
            errno = ENOSPC;
            return 1;
        }
        control->room -= (int32_t) size;
    }
    return 0;
}

ssize_t write(int fd, const void *data, size_t size) {
    char path[PATH_MAX];
    if (!ours(fd, path)) return raw_write(fd, data, size);
    if (refused(size)) return -1;
    off_t offset = lseek(fd, 0, fcntl(fd, F_GETFL) & O_APPEND ? SEEK_END : SEEK_CUR);
    ssize_t done = raw_write(fd, data, size);
    if (done > 0) record('w', path, (uint64_t) offset, data, (uint64_t) done);
    return done;
}

#define PWRITE(name, offset_type)                                                            \
    ssize_t name(int fd, const void *data, size_t size, offset_type offset) {               \
        REAL(name);                                                                          \
        char path[PATH_MAX];                                                                 \
        if (!ours(fd, path)) return real(fd, data, size, offset);                           \
        if (refused(size)) return -1;                                                        \
        ssize_t done = real(fd, data, size, offset);                                        \
        if (done > 0) record('w', path, (uint64_t) offset, data, (uint64_t) done);          \
        return done;                                                                         \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

#define TRUNCATE(name, offset_type)                                                          \
    int name(int fd, offset_type size) {                                                     \
        REAL(name);                                                                          \
        char path[PATH_MAX];                                                                 \
        int done = real(fd, size);                                                           \
        if (done == 0 && ours(fd, path)) record('t', path, (uint64_t) size, "", 0);         \
        return done;                                                                         \
    }
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)

#define SYNC(name)                                                                           \
    int name(int fd) {                                                                       \
        REAL(name);                                                                          \
        char path[PATH_MAX];                                                                 \
        if (!ours(fd, path)) return real(fd);                                               \
        int ms = control->fsync_ms;                                                          \
        struct timespec pause = {ms / 1000, ms % 1000 * 1000000L};                           \
        if (ms) nanosleep(&pause, NULL);                                                     \
        __atomic_add_fetch(&control->fsyncs, 1, __ATOMIC_SEQ_CST);                           \
        if (control->fsync_errno) {                                                          \
            errno = control->fsync_errno;                                                    \
            return -1;                                                                       \
        }                                                                                    \
        record('s', path, 0, "", 0);                                                         \
        return 0; /* what it would cost is what the test says */                             \
    }
SYNC(fsync)
SYNC(fdatasync)

#define OPEN(name)                                                                           \
    int name(const char *path, int flags, ...) {                                             \
        REAL(name);                                                                          \
        va_list more;                                                                        \
        va_start(more, flags);                                                               \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;             \
        va_end(more);                                                                        \
        int fd = real(path, flags, mode);                                                    \
        if (fd >= 0 && flags & O_CREAT && ours_path(path)) record('c', path, 0, "", 0);     \
        return fd;                                                                           \
    }
OPEN(open)
OPEN(open64)

#define MMAP(name, offset_type)                                                              \
    void *name(void *at, size_t size, int protection, int flags, int fd, offset_type offset) { \
        REAL(name);                                                                          \
        char path[PATH_MAX];                                                                 \
        if (control && control->mmap_errno && fd >= 0 && ours(fd, path)) {                   \
            errno = control->mmap_errno;                                                     \
            return MAP_FAILED;                                                               \
        }                                                                                    \
        return real(at, size, protection, flags, fd, offset);                               \
    }
MMAP(mmap, off_t)
MMAP(mmap64, off64_t)

int mkdir(const char *path, mode_t mode) {
    REAL(mkdir);
    int done = real(path, mode);
    if (done == 0 && ours_path(path)) record('m', path, 0, "", 0);
    return done;
}

int unlink(const char *path) {
    REAL(unlink);
    int done = real(path);
    if (done == 0 && ours_path(path)) record('u', path, 0, "", 0);
    return done;
}

int rename(const char *from, const char *to) {
    REAL(rename);
    int done = real(from, to);
    if (done == 0 && ours_path(from)) record('r', from, 0, to, strlen(to));
    return done;
}
