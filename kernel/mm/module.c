// Boot modules that no loader brought: memory that the application fills from a disk and publishes
// as /boot/NAME, whose mmap() copies nothing.
#include "boot/bootinfo.h"
#include "bytes.h"
#include "cpu/spinlock.h"
#include "errors.h"
#include "mm/phys.h"
#include "mm/vm.h"

// Reservations: modules to be. A free place has no name. The lock guards them and the length of
// bootinfo's list.
static struct spinlock lock;
static struct boot_module pending[BOOT_MAX_MODULES];
// Of the entries of bootinfo's list: published here, so that module_remove() may free them. One
// that is removed has no name and is used again: descriptors name entries by address.
static bool mine[BOOT_MAX_MODULES];

static uint64_t frames(const struct boot_module *m) {
    return ALIGN_UP(m->size, PAGE_SIZE) / PAGE_SIZE;
}

static bool is_name(const char *name) {
    size_t n = kstrlen(name);
    for (size_t i = 0; i < n; i++) {
        if (name[i] == '/') {
            return false;
        }
    }
    return n && n < BOOT_NAME_MAX;
}

static struct boot_module *find_pending(const char *name) {
    for (size_t i = 0; i < BOOT_MAX_MODULES; i++) {
        if (pending[i].name[0] && kstreq(pending[i].name, name)) {
            return &pending[i];
        }
    }
    return NULL;
}

static void drop(struct boot_module *m) {
    phys_free(m->start, frames(m));
    m->name[0] = 0;
}

static struct boot_module *free_place(void) {
    size_t used = 0;
    for (size_t i = 0; i < bootinfo.n_modules; i++) {
        used += bootinfo.modules[i].name[0] != 0;
    }
    struct boot_module *found = NULL;
    for (size_t i = 0; i < BOOT_MAX_MODULES; i++) {
        used += pending[i].name[0] != 0;
        found = pending[i].name[0] ? found : &pending[i];
    }
    return used < BOOT_MAX_MODULES ? found : NULL;
}

static int reserve(const char *name, uint64_t size, struct boot_module **out) {
    for (size_t i = 0; i < bootinfo.n_modules; i++) {
        if (kstreq(bootinfo.modules[i].name, name)) {
            return -L_EEXIST;
        }
    }
    struct boot_module *m = find_pending(name);
    if (m && m->size != size) {
        drop(m);
        m = NULL;
    }
    if (!m) {
        m = free_place();
        if (!m) {
            return -L_EMFILE;
        }
        uint64_t n = ALIGN_UP(size, PAGE_SIZE) / PAGE_SIZE;
        uint64_t at = phys_alloc_contiguous(n, LARGE_PAGE_SIZE, 4 * GiB, UINT64_MAX);
        at = at ? at : phys_alloc_contiguous(n, LARGE_PAGE_SIZE, 0, 4 * GiB);
        if (!at) {
            return -L_ENOMEM;
        }
        m->start = at;
        m->size = size;
        m->mapped = false;
        kmemcpy(m->name, name, kstrlen(name) + 1);
    }
    *out = m;
    return 0;
}

int module_reserve(const char *name, uint64_t size, uint64_t *address) {
    if (!is_name(name) || !size || size > 1ul << 46) {
        return -L_EINVAL;
    }
    struct boot_module *m;
    uint64_t flags = spin_lock_irq(&lock);
    int err = reserve(name, size, &m);
    spin_unlock_irq(&lock, flags);
    if (!err) {
        // mmap() gives out the whole last page.
        kmemzero((void *)(m->start + size), ALIGN_UP(size, PAGE_SIZE) - size);
        *address = m->start;
    }
    return err;
}

int module_publish(const char *name) {
    struct boot_module *m = find_pending(name);
    if (!m) {
        return -L_ENOENT;
    }
    int err = vm_protect(m->start, m->size, PROT_R);
    if (err) {
        return err;
    }
    uint64_t flags = spin_lock_irq(&lock);
    size_t at = 0;
    while (at < bootinfo.n_modules && bootinfo.modules[at].name[0]) {
        at++;
    }
    // Other cores read the list without a lock: the entry comes before its name and the length.
    struct boot_module *entry = &bootinfo.modules[at];
    char first = m->name[0];
    m->name[0] = 0;
    *entry = *m;
    mine[at] = true;
    __atomic_store_n(&entry->name[0], first, __ATOMIC_RELEASE);
    if (at == bootinfo.n_modules) {
        __atomic_store_n(&bootinfo.n_modules, at + 1, __ATOMIC_RELEASE);
    }
    spin_unlock_irq(&lock, flags);
    return 0;
}

int module_remove(const char *name) {
    for (size_t i = 0; i < bootinfo.n_modules; i++) {
        struct boot_module *m = &bootinfo.modules[i];
        if (!mine[i] || !m->name[0] || !kstreq(m->name, name)) {
            continue;
        }
        int err = vm_protect(m->start, m->size, PROT_R | PROT_W);
        if (err) {
            return err;
        }
        uint64_t flags = spin_lock_irq(&lock);
        mine[i] = false;
        drop(m);
        spin_unlock_irq(&lock, flags);
        return 0;
    }
    return -L_ENOENT;
}

void module_release(const char *name) {
    uint64_t flags = spin_lock_irq(&lock);
    for (size_t i = 0; i < BOOT_MAX_MODULES; i++) {
        if (pending[i].name[0] && (!name || kstreq(pending[i].name, name))) {
            drop(&pending[i]);
        }
    }
    spin_unlock_irq(&lock, flags);
}
