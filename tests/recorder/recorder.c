/* What a process does to the files below one folder, written down beneath every library that it uses: preloaded, it stands
 * between the process and the system's calls. tests/src/replay.rs reads the log and plays power cuts with it.
 *
 *   LD_PRELOAD=recorder.so RECORDER_ROOT=/absolute/folder RECORDER_LOG=/absolute/file program ...
 *
 * One record for each call that succeeded, in the order in which they took effect: a call and its record are one step under
 * one lock, so a record of a sync stands behind every write that the sync covers. Records are appended, whole, by one call
 * each, so several processes may share a log, and so may a test that adds marks of its own.
 *
 *   record = length of the rest (u32 LE), kind (u8), process (u32), then by kind:
 *     1 open      handle u32, flags u8 (1 create, 2 truncate, 4 folder), path
 *     2 write     handle u32, offset u64, bytes
 *     3 truncate  handle u32, length u64
 *     4 sync      handle u32
 *     5 rename    length of the first u32, paths
 *     6 link      the same
 *     7 unlink    path          8 mkdir  path          9 rmdir  path
 *    10 extend    handle u32, length u64 (fallocate that moves the end)
 *    11 unknown   a call that changes files in a way that is not recorded: the log is of no use
 *
 * Not recorded: what libc writes for its own streams (RocksDB's LOG), reads, and hints such as sync_file_range, which
 * promise nothing.
 */
#define _GNU_SOURCE
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
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OPEN = 1, WRITE, TRUNCATE, SYNC, RENAME, LINK, UNLINK, MKDIR, RMDIR, EXTEND, UNKNOWN };

#define FDS 65536
static uint32_t handles[FDS];
static unsigned char appends[FDS];
static uint32_t last_handle;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const char *root;
static size_t root_length;
static int log_fd = -1;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("RECORDER_LOG");
    root = getenv("RECORDER_ROOT");
    if (!root || !path) return;
    root_length = strlen(root);
    log_fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static void record(int kind, const void *fixed, size_t fixed_length, const void *bytes, size_t length) {
    unsigned char head[9];
    uint32_t rest = (uint32_t)(5 + fixed_length + length), pid = (uint32_t)getpid();
    memcpy(head, &rest, 4);
    head[4] = (unsigned char)kind;
    memcpy(head + 5, &pid, 4);
    struct iovec parts[3] = {{head, 9}, {(void *)fixed, fixed_length}, {(void *)bytes, length}};
    ssize_t written = syscall(SYS_writev, log_fd, parts, 3);
    if (written != (ssize_t)(9 + fixed_length + length)) {
        static const char text[] = "recorder: the log cannot be written\n";
        syscall(SYS_write, 2, text, sizeof text - 1);
        abort();
    }
}

/* The absolute path, if it is below the root. */
static int below(int folder, const char *path, char *out) {
    if (log_fd < 0 || !path) return 0;
    int length;
    if (path[0] == '/') {
        length = snprintf(out, PATH_MAX, "%s", path);
    } else if (folder == AT_FDCWD) {
        char here[PATH_MAX];
        if (!getcwd(here, sizeof here)) return 0;
        length = snprintf(out, PATH_MAX, "%s/%s", here, path);
    } else {
        char name[64], there[PATH_MAX];
        snprintf(name, sizeof name, "/proc/self/fd/%d", folder);
        ssize_t found = readlink(name, there, sizeof there - 1);
        if (found < 0) return 0;
        there[found] = 0;
        length = snprintf(out, PATH_MAX, "%s/%s", there, path);
    }
    return length > 0 && length < PATH_MAX && !strncmp(out, root, root_length) &&
           (out[root_length] == '/' || out[root_length] == 0);
}

static uint32_t handle_of(int fd) { return fd >= 0 && fd < FDS ? handles[fd] : 0; }

static void opened(int fd, int flags, const char *path) {
    unsigned char fixed[5];
    uint32_t handle = ++last_handle;
    handles[fd] = handle;
    appends[fd] = (flags & O_APPEND) != 0;
    memcpy(fixed, &handle, 4);
    fixed[4] = (unsigned char)((flags & O_CREAT ? 1 : 0) | (flags & O_TRUNC ? 2 : 0) | (flags & O_DIRECTORY ? 4 : 0));
    record(OPEN, fixed, 5, path, strlen(path));
}

static int do_open(int folder, const char *path, int flags, mode_t mode) {
    char full[PATH_MAX];
    if (!below(folder, path, full)) return (int)syscall(SYS_openat, folder, path, flags, mode);
    pthread_mutex_lock(&lock);
    int fd = (int)syscall(SYS_openat, folder, path, flags, mode);
    int error = errno;
    if (fd >= 0 && fd < FDS && !(flags & O_PATH)) opened(fd, flags, full);
    pthread_mutex_unlock(&lock);
    errno = error;
    return fd;
}

#define MODE(flags) \
    mode_t mode = 0; \
    if (flags & (O_CREAT | __O_TMPFILE)) { \
        va_list rest; \
        va_start(rest, flags); \
        mode = (mode_t)va_arg(rest, int); \
        va_end(rest); \
    }

int open(const char *path, int flags, ...) { MODE(flags) return do_open(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return do_open(AT_FDCWD, path, flags, mode); }
int openat(int folder, const char *path, int flags, ...) { MODE(flags) return do_open(folder, path, flags, mode); }
int openat64(int folder, const char *path, int flags, ...) { MODE(flags) return do_open(folder, path, flags, mode); }
int creat(const char *path, mode_t mode) { return do_open(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return do_open(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }

int close(int fd) {
    if (fd >= 0 && fd < FDS && handles[fd]) {
        pthread_mutex_lock(&lock);
        handles[fd] = 0;
        int result = (int)syscall(SYS_close, fd), error = errno;
        pthread_mutex_unlock(&lock);
        errno = error;
        return result;
    }
    return (int)syscall(SYS_close, fd);
}

static void unknown(void) { record(UNKNOWN, "", 0, "", 0); }

/* Under the lock. */
static void wrote(uint32_t handle, uint64_t offset, const void *bytes, ssize_t length) {
    unsigned char fixed[12];
    memcpy(fixed, &handle, 4);
    memcpy(fixed + 4, &offset, 8);
    record(WRITE, fixed, 12, bytes, (size_t)length);
}

static void with_length(int kind, uint32_t handle, uint64_t length) {
    unsigned char fixed[12];
    memcpy(fixed, &handle, 4);
    memcpy(fixed + 4, &length, 8);
    record(kind, fixed, 12, "", 0);
}

ssize_t write(int fd, const void *bytes, size_t length) {
    uint32_t handle = handle_of(fd);
    if (!handle) return syscall(SYS_write, fd, bytes, length);
    pthread_mutex_lock(&lock);
    off_t offset = lseek(fd, 0, appends[fd] ? SEEK_END : SEEK_CUR);
    ssize_t written = syscall(SYS_write, fd, bytes, length);
    int error = errno;
    /* What has no place is no file: the number was a file's, and was closed by other ways than close(). */
    if (offset < 0) handles[fd] = 0;
    else if (written > 0) wrote(handle, (uint64_t)offset, bytes, written);
    pthread_mutex_unlock(&lock);
    errno = error;
    return written;
}

static ssize_t do_pwrite(int fd, const void *bytes, size_t length, off64_t offset) {
    uint32_t handle = handle_of(fd);
    if (!handle) return syscall(SYS_pwrite64, fd, bytes, length, offset);
    pthread_mutex_lock(&lock);
    ssize_t written = syscall(SYS_pwrite64, fd, bytes, length, offset);
    int error = errno;
    if (written > 0) wrote(handle, (uint64_t)offset, bytes, written);
    pthread_mutex_unlock(&lock);
    errno = error;
    return written;
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t at) { return do_pwrite(fd, bytes, length, at); }
ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t at) { return do_pwrite(fd, bytes, length, at); }

ssize_t writev(int fd, const struct iovec *parts, int count) {
    if (!handle_of(fd)) return syscall(SYS_writev, fd, parts, count);
    ssize_t total = 0;
    for (int part = 0; part < count; part++) {
        ssize_t written = write(fd, parts[part].iov_base, parts[part].iov_len);
        if (written < 0) return total ? total : written;
        total += written;
        if ((size_t)written < parts[part].iov_len) break;
    }
    return total;
}

static int do_ftruncate(int fd, off64_t length) {
    uint32_t handle = handle_of(fd);
    if (!handle) return (int)syscall(SYS_ftruncate, fd, length);
    pthread_mutex_lock(&lock);
    int result = (int)syscall(SYS_ftruncate, fd, length), error = errno;
    if (!result) with_length(TRUNCATE, handle, (uint64_t)length);
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}

int ftruncate(int fd, off_t length) { return do_ftruncate(fd, length); }
int ftruncate64(int fd, off64_t length) { return do_ftruncate(fd, length); }

static int do_fallocate(int fd, int mode, off64_t offset, off64_t length) {
    uint32_t handle = handle_of(fd);
    if (!handle) return (int)syscall(SYS_fallocate, fd, mode, offset, length);
    pthread_mutex_lock(&lock);
    int result = (int)syscall(SYS_fallocate, fd, mode, offset, length), error = errno;
    /* One that keeps the size only sets room aside. */
    if (!result && mode == 0) with_length(EXTEND, handle, (uint64_t)(offset + length));
    if (!result && mode != 0 && mode != FALLOC_FL_KEEP_SIZE) unknown();
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}

int fallocate(int fd, int mode, off_t at, off_t length) { return do_fallocate(fd, mode, at, length); }
int fallocate64(int fd, int mode, off64_t at, off64_t length) { return do_fallocate(fd, mode, at, length); }
int posix_fallocate(int fd, off_t at, off_t length) { return do_fallocate(fd, 0, at, length) ? errno : 0; }
int posix_fallocate64(int fd, off64_t at, off64_t length) { return do_fallocate(fd, 0, at, length) ? errno : 0; }

static int do_sync(int fd, long call) {
    uint32_t handle = handle_of(fd);
    if (!handle) return (int)syscall(call, fd);
    pthread_mutex_lock(&lock);
    int result = (int)syscall(call, fd), error = errno;
    if (!result) record(SYNC, &handle, 4, "", 0);
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}

int fsync(int fd) { return do_sync(fd, SYS_fsync); }
int fdatasync(int fd) { return do_sync(fd, SYS_fdatasync); }

static void two_paths(int kind, const char *from, const char *to) {
    char both[2 * PATH_MAX];
    uint32_t first = (uint32_t)strlen(from);
    memcpy(both, from, first);
    memcpy(both + first, to, strlen(to));
    record(kind, &first, 4, both, first + strlen(to));
}

static int do_rename(int folder, const char *from, int to_folder, const char *to, unsigned flags) {
    char full[PATH_MAX], to_full[PATH_MAX];
    int ours = below(folder, from, full), to_ours = below(to_folder, to, to_full);
    if (!ours && !to_ours) return (int)syscall(SYS_renameat2, folder, from, to_folder, to, flags);
    pthread_mutex_lock(&lock);
    int result = (int)syscall(SYS_renameat2, folder, from, to_folder, to, flags), error = errno;
    if (!result) {
        if (ours && to_ours && (flags & ~1u) == 0) two_paths(RENAME, full, to_full);
        else unknown();
    }
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}

int rename(const char *from, const char *to) { return do_rename(AT_FDCWD, from, AT_FDCWD, to, 0); }
int renameat(int a, const char *from, int b, const char *to) { return do_rename(a, from, b, to, 0); }
int renameat2(int a, const char *from, int b, const char *to, unsigned f) { return do_rename(a, from, b, to, f); }

static int do_link(int folder, const char *from, int to_folder, const char *to, int flags) {
    char full[PATH_MAX], to_full[PATH_MAX];
    int ours = below(folder, from, full), to_ours = below(to_folder, to, to_full);
    if (!to_ours) return (int)syscall(SYS_linkat, folder, from, to_folder, to, flags);
    pthread_mutex_lock(&lock);
    int result = (int)syscall(SYS_linkat, folder, from, to_folder, to, flags), error = errno;
    if (!result) {
        if (ours) two_paths(LINK, full, to_full);
        else unknown();
    }
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}

int link(const char *from, const char *to) { return do_link(AT_FDCWD, from, AT_FDCWD, to, 0); }
int linkat(int a, const char *from, int b, const char *to, int f) { return do_link(a, from, b, to, f); }

static int one_path(int kind, int folder, const char *path, long result_flags, mode_t mode) {
    char full[PATH_MAX];
    int ours = below(folder, path, full);
    if (ours) pthread_mutex_lock(&lock);
    int result = kind == MKDIR ? (int)syscall(SYS_mkdirat, folder, path, mode)
                               : (int)syscall(SYS_unlinkat, folder, path, (int)result_flags);
    int error = errno;
    if (ours) {
        if (!result) record(kind, "", 0, full, strlen(full));
        pthread_mutex_unlock(&lock);
    }
    errno = error;
    return result;
}

int unlink(const char *path) { return one_path(UNLINK, AT_FDCWD, path, 0, 0); }
int unlinkat(int folder, const char *path, int flags) {
    return one_path(flags & AT_REMOVEDIR ? RMDIR : UNLINK, folder, path, flags, 0);
}
int rmdir(const char *path) { return one_path(RMDIR, AT_FDCWD, path, AT_REMOVEDIR, 0); }
int remove(const char *path) {
    int result = unlink(path);
    return result && errno == EISDIR ? rmdir(path) : result;
}
int mkdir(const char *path, mode_t mode) { return one_path(MKDIR, AT_FDCWD, path, 0, mode); }
int mkdirat(int folder, const char *path, mode_t mode) { return one_path(MKDIR, folder, path, 0, mode); }

static int do_truncate(const char *path, off64_t length) {
    int fd = open(path, O_WRONLY);
    if (fd < 0) return -1;
    int result = do_ftruncate(fd, length), error = errno;
    close(fd);
    errno = error;
    return result;
}

int truncate(const char *path, off_t length) { return do_truncate(path, length); }
int truncate64(const char *path, off64_t length) { return do_truncate(path, length); }

static void *do_mmap(void *at, size_t length, int protection, int flags, int fd, off64_t offset) {
    if (handle_of(fd) && (flags & MAP_SHARED) && (protection & PROT_WRITE)) unknown();
    return (void *)syscall(SYS_mmap, at, length, protection, flags, fd, offset);
}

void *mmap(void *at, size_t length, int p, int flags, int fd, off_t offset) {
    return do_mmap(at, length, p, flags, fd, offset);
}
void *mmap64(void *at, size_t length, int p, int flags, int fd, off64_t offset) {
    return do_mmap(at, length, p, flags, fd, offset);
}

ssize_t copy_file_range(int from, off64_t *at, int to, off64_t *to_at, size_t length, unsigned flags) {
    if (handle_of(to)) {
        /* The caller copies by reading and writing then. */
        errno = ENOSYS;
        return -1;
    }
    return syscall(SYS_copy_file_range, from, at, to, to_at, length, flags);
}

ssize_t sendfile64(int to, int from, off64_t *at, size_t length) {
    if (handle_of(to)) {
        errno = EINVAL;
        return -1;
    }
    return syscall(SYS_sendfile, to, from, at, length);
}
ssize_t sendfile(int to, int from, off_t *at, size_t length) { return sendfile64(to, from, at, length); }
