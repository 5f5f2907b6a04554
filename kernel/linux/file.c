// Files: the console, and the boot modules as a flat read-only directory /boot.
#include "linux/file.h"

#include "boot/bootinfo.h"
#include "bytes.h"
#include "cpu/spinlock.h"
#include "dev/console.h"
#include "linux/linux.h"
#include "linux/stderr.h"
#include "mm/paging.h"

#define MAX_FD 64
#define DIRECTORY "/boot"

enum kind { CLOSED, CONSOLE, MODULE, ROOT_DIR, BOOT_DIR };

struct fd {
    enum kind kind;
    const struct boot_module *module;
    uint64_t offset; // bytes into a module, entries into a directory
};

static struct spinlock lock; // guards which descriptors are free
static struct fd fds[MAX_FD] = {{CONSOLE, NULL, 0}, {CONSOLE, NULL, 0}, {CONSOLE, NULL, 0}};

struct iovec {
    uint64_t base, len;
};

struct stat {
    uint64_t dev, ino, nlink;
    uint32_t mode, uid, gid, pad0;
    uint64_t rdev;
    int64_t size, blksize, blocks;
    uint64_t times[6];
    int64_t unused[3];
};

#define S_IFCHR 0020000
#define S_IFDIR 0040000
#define S_IFREG 0100000

static struct fd *get_fd(uint64_t fd) {
    return fd < MAX_FD && fds[fd].kind != CLOSED ? &fds[fd] : NULL;
}

// Finds what `path` names. A relative path starts at /.
static int64_t resolve(const char *path, struct fd *out) {
    *out = (struct fd){ROOT_DIR, NULL, 0};
    while (*path == '/' || (path[0] == '.' && (path[1] == '/' || !path[1]))) {
        path++;
    }
    if (!*path) {
        return 0;
    }
    const char *dir = &DIRECTORY[1];
    while (*dir && *dir == *path) {
        dir++, path++;
    }
    if (*dir || (*path && *path != '/')) {
        return -L_ENOENT;
    }
    while (*path == '/') {
        path++;
    }
    out->kind = BOOT_DIR;
    if (!*path) {
        return 0;
    }
    for (size_t i = 0; i < bootinfo.n_modules; i++) {
        if (kstreq(path, bootinfo.modules[i].name)) {
            *out = (struct fd){MODULE, &bootinfo.modules[i], 0};
            return 0;
        }
    }
    return -L_ENOENT;
}

static int64_t do_open(const char *path, uint64_t flags) {
    struct fd file;
    int64_t err = resolve(path, &file);
    if (err) {
        return flags & 0100 ? -L_EROFS : err; // O_CREAT
    }
    if (flags & 3) { // anything but O_RDONLY
        return file.kind == MODULE ? -L_EROFS : -L_EISDIR;
    }
    if ((flags & 0200000) && file.kind == MODULE) { // O_DIRECTORY
        return -L_ENOTDIR;
    }
    int64_t fd = -L_EMFILE;
    uint64_t irq = spin_lock_irq(&lock);
    for (int i = 3; i < MAX_FD; i++) {
        if (fds[i].kind == CLOSED) {
            fds[i] = file;
            fd = i;
            break;
        }
    }
    spin_unlock_irq(&lock, irq);
    return fd;
}

int64_t sys_open(const uint64_t arg[6]) {
    uint64_t path = arg[0], flags = arg[1];
    return do_open((const char *)path, flags);
}

int64_t sys_openat(const uint64_t arg[6]) {
    uint64_t path = arg[1], flags = arg[2];
    return do_open((const char *)path, flags);
}

int64_t sys_close(const uint64_t arg[6]) {
    uint64_t fd = arg[0];
    struct fd *p = get_fd(fd);
    if (!p) {
        return -L_EBADF;
    }
    p->kind = CLOSED;
    return 0;
}

static int64_t read_at(struct fd *p, uint64_t buf, uint64_t n, uint64_t offset) {
    if (p->kind != MODULE) {
        return p->kind == CONSOLE ? 0 : -L_EISDIR; // the application reads the console itself
    }
    uint64_t left = offset < p->module->size ? p->module->size - offset : 0;
    n = n < left ? n : left;
    kmemcpy((void *)buf, (const void *)(p->module->start + offset), n);
    return (int64_t)n;
}

static int64_t do_read(uint64_t fd, uint64_t buf, uint64_t n) {
    struct fd *p = get_fd(fd);
    int64_t got = p ? read_at(p, buf, n, p->offset) : -L_EBADF;
    if (got > 0) {
        p->offset += (uint64_t)got;
    }
    return got;
}

int64_t sys_read(const uint64_t arg[6]) {
    return do_read(arg[0], arg[1], arg[2]);
}

int64_t sys_pread64(const uint64_t arg[6]) {
    uint64_t fd = arg[0], buf = arg[1], n = arg[2], offset = arg[3];
    struct fd *p = get_fd(fd);
    return p ? read_at(p, buf, n, offset) : -L_EBADF;
}

int64_t sys_readv(const uint64_t arg[6]) {
    uint64_t fd = arg[0], iov = arg[1], n = arg[2];
    int64_t total = 0;
    for (const struct iovec *v = (const struct iovec *)iov; n--; v++) {
        int64_t got = do_read(fd, v->base, v->len);
        if (got < 0) {
            return total ? total : got;
        }
        total += got;
        if ((uint64_t)got < v->len) {
            break;
        }
    }
    return total;
}

static int64_t do_write(uint64_t fd, uint64_t buf, uint64_t n) {
    struct fd *p = get_fd(fd);
    if (!p || p->kind != CONSOLE) {
        return -L_EBADF;
    }
    console_write_text((const char *)buf, n);
    if (fd == 2) {
        stderr_keep((const char *)buf, n);
    }
    return (int64_t)n;
}

int64_t sys_write(const uint64_t arg[6]) {
    return do_write(arg[0], arg[1], arg[2]);
}

int64_t sys_writev(const uint64_t arg[6]) {
    uint64_t fd = arg[0], iov = arg[1], n = arg[2];
    int64_t total = 0;
    for (const struct iovec *v = (const struct iovec *)iov; n--; v++) {
        int64_t put = do_write(fd, v->base, v->len);
        if (put < 0) {
            return put;
        }
        total += put;
    }
    return total;
}

int64_t sys_lseek(const uint64_t arg[6]) {
    uint64_t fd = arg[0], offset = arg[1], whence = arg[2];
    struct fd *p = get_fd(fd);
    if (!p) {
        return -L_EBADF;
    }
    if (p->kind == CONSOLE) {
        return -L_ESPIPE;
    }
    int64_t size = p->module ? (int64_t)p->module->size : 0;
    int64_t base = whence == 0 ? 0 : whence == 1 ? (int64_t)p->offset : whence == 2 ? size : -1;
    int64_t to = base + (int64_t)offset;
    if (base < 0 || to < 0) {
        return -L_EINVAL;
    }
    p->offset = (uint64_t)to;
    return to;
}

static int64_t fill_stat(const struct fd *p, uint64_t out) {
    struct stat *s = (struct stat *)out;
    kmemset(s, 0, sizeof(*s));
    s->nlink = 1;
    s->blksize = PAGE_SIZE;
    if (p->kind == MODULE) {
        s->ino = (uint64_t)(p->module - bootinfo.modules) + 3;
        s->mode = S_IFREG | 0444;
        s->size = (int64_t)p->module->size;
        s->blocks = (s->size + 511) / 512;
    } else {
        s->ino = p->kind == ROOT_DIR ? 1 : 2;
        s->mode = p->kind == CONSOLE ? S_IFCHR | 0666 : S_IFDIR | 0555;
    }
    return 0;
}

static int64_t stat_path(uint64_t path, uint64_t out) {
    struct fd file;
    int64_t err = resolve((const char *)path, &file);
    return err ? err : fill_stat(&file, out);
}

int64_t sys_stat(const uint64_t arg[6]) {
    uint64_t path = arg[0], out = arg[1];
    return stat_path(path, out);
}

static int64_t stat_fd(uint64_t fd, uint64_t out) {
    struct fd *p = get_fd(fd);
    return p ? fill_stat(p, out) : -L_EBADF;
}

int64_t sys_fstat(const uint64_t arg[6]) {
    return stat_fd(arg[0], arg[1]);
}

int64_t sys_newfstatat(const uint64_t arg[6]) {
    uint64_t dirfd = arg[0], path = arg[1], out = arg[2], flags = arg[3];
    if ((flags & 0x1000) && !*(const char *)path) { // AT_EMPTY_PATH
        return stat_fd(dirfd, out);
    }
    return stat_path(path, out);
}

int64_t sys_access(const uint64_t arg[6]) {
    uint64_t path = arg[0], mode = arg[1];
    struct fd file;
    int64_t err = resolve((const char *)path, &file);
    return err ? err : mode & 2 ? -L_EROFS : 0;
}

int64_t sys_getdents64(const uint64_t arg[6]) {
    uint64_t fd = arg[0], buf = arg[1], size = arg[2];
    struct dirent {
        uint64_t ino;
        int64_t off;
        uint16_t reclen;
        uint8_t type;
        char name[];
    };
    struct fd *p = get_fd(fd);
    if (!p || (p->kind != ROOT_DIR && p->kind != BOOT_DIR)) {
        return p ? -L_ENOTDIR : -L_EBADF;
    }
    uint64_t n = p->kind == ROOT_DIR ? 1 : bootinfo.n_modules, used = 0;
    for (; p->offset < n; p->offset++) {
        const char *name = p->kind == ROOT_DIR ? &DIRECTORY[1] : bootinfo.modules[p->offset].name;
        if (!*name) {
            continue; // removed
        }
        size_t len = kstrlen(name) + 1;
        size_t reclen = ALIGN_UP(offsetof(struct dirent, name) + len, 8);
        if (used + reclen > size) {
            return used ? (int64_t)used : -L_EINVAL;
        }
        struct dirent *entry = (struct dirent *)(buf + used);
        entry->ino = p->offset + 3;
        entry->off = (int64_t)p->offset + 1;
        entry->reclen = (uint16_t)reclen;
        entry->type = p->kind == ROOT_DIR ? 4 : 8; // DT_DIR, DT_REG
        kmemcpy(entry->name, name, len);
        used += reclen;
    }
    return (int64_t)used;
}

int64_t sys_fcntl(const uint64_t arg[6]) {
    uint64_t fd = arg[0], cmd = arg[1];
    return !get_fd(fd) ? -L_EBADF : cmd >= 1 && cmd <= 4 ? 0 : -L_EINVAL; // F_GETFD .. F_SETFL
}

int64_t sys_getcwd(const uint64_t arg[6]) {
    uint64_t buf = arg[0], size = arg[1];
    if (size < 2) {
        return -L_ERANGE;
    }
    kmemcpy((void *)buf, "/", 2);
    return 2;
}

int64_t sys_ioctl(const uint64_t arg[6]) {
    uint64_t fd = arg[0];
    return get_fd(fd) ? -L_ENOTTY : -L_EBADF;
}

int64_t file_address(int fd, uint64_t offset, uint64_t length) {
    struct fd *p = get_fd((uint64_t)fd);
    if (!p || p->kind != MODULE) {
        return p ? -L_EACCES : -L_EBADF;
    }
    // Pages past the end would be other memory, not zeros: only the last page may be partial.
    if ((offset & PAGE_MASK) || offset > p->module->size
        || ALIGN_UP(length, PAGE_SIZE) > ALIGN_UP(p->module->size, PAGE_SIZE) - offset) {
        return -L_EINVAL;
    }
    return (int64_t)(p->module->start + offset);
}
