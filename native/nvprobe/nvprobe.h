// nvprobe.h: a probe of NVIDIA's graphics cards on the bare machine: what is there, and how it
// would be addressed. It is no driver: it starts no processor of the card, sets up no memory or
// channel there and writes none of the card's registers. docs/gpu.md says what is missing.
//
//   find.c     functions on the PCI bus, sizes of their regions, the chip's name
//   vbios.c    the images of a video BIOS and the firmware that they hold
//   qmd.c      queue metadata, which describe a kernel launch, per generation
//   push.c     the words of a push buffer, and entries of the ring that names push buffers
//
// Facts are NVIDIA's, from open-gpu-doc (classes/, manuals/, BIOS-Information-Table) and
// open-gpu-kernel-modules, both under the MIT licence.
#ifndef CLLM_NVPROBE_H
#define CLLM_NVPROBE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// --- The chip -----------------------------------------------------------------------------------

enum nvprobe_generation {
    NVPROBE_UNKNOWN,
    NVPROBE_MAXWELL,
    NVPROBE_PASCAL,
    NVPROBE_VOLTA,
    NVPROBE_TURING,
    NVPROBE_AMPERE,
    NVPROBE_HOPPER,
    NVPROBE_ADA,
    NVPROBE_GENERATIONS
};

struct nvprobe_chip {
    uint16_t id;      // architecture << 4 | implementation: 0x172
    uint8_t revision; // major << 4 | minor: 0xa1
    enum nvprobe_generation generation;
    const char *name; // "GA102"; NULL for a chip that is not in the table
};

// Decodes the registers BOOT_0 (at 0 of region 0) and BOOT_42 (at 0xa00). False: nothing answers
// there, or the two contradict each other.
bool nvprobe_chip(uint32_t boot0, uint32_t boot42, struct nvprobe_chip *out);
const char *nvprobe_generation_name(enum nvprobe_generation generation);

// --- Discovery ----------------------------------------------------------------------------------

struct nvprobe_vbios;

// What the probe needs of the machine, set by its port. A field may be NULL: what it would have
// shown is then unknown.
struct nvprobe_hooks {
    // Maps `bytes` of registers at `address` uncached; NULL if that cannot be done.
    const volatile uint32_t *(*map_registers)(uint64_t address, size_t bytes);
    // A 32-bit register of the extended configuration space, `offset` 0x100 to 0xffc.
    uint32_t (*read_extended)(uint16_t bdf, unsigned offset);
};
extern struct nvprobe_hooks nvprobe_hooks;

struct nvprobe_finding {
    uint16_t bdf, device; // device: PCI's number
    uint32_t class24;
    uint64_t registers;        // address of region 0
    uint64_t bar0, bar1, bar3; // bytes of the regions: registers, memory, memory of the instance
    uint64_t bar1_sizes;       // bit n: region 1 can be made 2^n MiB; 0: cannot, or unknown
    bool answered;             // the chip's registers could be read, `chip` is valid
    struct nvprobe_chip chip;
};

// Fills `found` with the display and 3D controllers (class 03) of vendor 10de. Returns how many
// there are, which may be more than `room`. Regions do not decode while they are measured.
size_t nvprobe_find(struct nvprobe_finding *found, size_t room);

// Walks the list of extended capabilities for Resizable BAR (PCI Express 5.0, section 7.8.6):
// the sizes that region `bar` can have, bit n for 2^n MiB, or 0.
uint64_t nvprobe_resizable(uint16_t bdf, unsigned bar);

// Copies the card's video BIOS through region 0, at most `room` bytes, a multiple of 4. Returns how
// many: up to the last image's end, 0 if there is none.
size_t nvprobe_read_rom(const struct nvprobe_finding *card, uint8_t *rom, size_t room);

// --- The video BIOS -----------------------------------------------------------------------------

#define NVPROBE_IMAGES 16
#define NVPROBE_ROM_MAX 0x100000 // bytes; larger ROMs are not read

enum { NVPROBE_IMAGE_PC = 0x00, NVPROBE_IMAGE_EFI = 0x03, NVPROBE_IMAGE_FWSEC = 0xe0 };

struct nvprobe_image {
    uint32_t start, bytes; // in the ROM
    uint16_t vendor, device;
    uint8_t code; // NVPROBE_IMAGE_*
    bool last, npde;
};

// Firmware of a falcon (the card's small processors), in the ROM.
struct nvprobe_ucode {
    uint8_t application, target;   // FWSEC: application 0x85, or 0x45 for debugging
    uint8_t version;               // of the descriptor: 2 or 3
    uint8_t signatures;            // of 384 bytes, after the descriptor; 0 in version 2
    uint32_t descriptor;           // its place in the ROM
    uint32_t code, code_bytes;     // place in the ROM; what goes to the falcon's code memory
    uint32_t data, data_bytes;     // the same for its data memory
    uint32_t code_base, data_base; // addresses in these memories
    uint32_t interface;            // offset of the list of applications in the data
    uint32_t signature_place;      // offset in the data where the signature is expected
    uint16_t engines;              // mask of the falcons that may run it
    uint8_t fuse;                  // number of the fuse with the oldest version that may run
    uint16_t signature_versions;   // mask
};

#define NVPROBE_UCODES 16

struct nvprobe_vbios {
    unsigned n_images;
    struct nvprobe_image image[NVPROBE_IMAGES];
    bool has_bit;       // the table that leads to everything else
    uint8_t version[5]; // of the BIOS, as it is printed: 94.02.26.08.1c; zeros if not found
    bool has_version;
    unsigned n_ucodes;
    struct nvprobe_ucode ucode[NVPROBE_UCODES];
};

// Takes a ROM apart. False: no image at its start. What lies outside of `bytes`, or contradicts
// itself, is left out.
bool nvprobe_vbios(const uint8_t *rom, size_t bytes, struct nvprobe_vbios *out);
// The firmware that sets up protected memory (FWSEC), or NULL.
const struct nvprobe_ucode *nvprobe_fwsec(const struct nvprobe_vbios *vbios);

// --- Queue metadata -----------------------------------------------------------------------------

// Fields that a launch sets; their places and which there are differ per generation.
enum nvprobe_qmd_field {
    NVPROBE_QMD_MAJOR,
    NVPROBE_QMD_MINOR,
    NVPROBE_QMD_TYPE,
    NVPROBE_QMD_GLOBAL_CACHING,
    NVPROBE_QMD_DROP_TEXTURE_HEADERS, // caches that are invalidated before the launch
    NVPROBE_QMD_DROP_TEXTURE_SAMPLERS,
    NVPROBE_QMD_DROP_TEXTURE_DATA,
    NVPROBE_QMD_DROP_SHADER_DATA,
    NVPROBE_QMD_DROP_INSTRUCTIONS,
    NVPROBE_QMD_DROP_CONSTANTS,
    NVPROBE_QMD_CALL_LIMIT,
    NVPROBE_QMD_SAMPLER_INDEX,
    NVPROBE_QMD_MEMBAR,
    NVPROBE_QMD_GRID_X,
    NVPROBE_QMD_GRID_Y,
    NVPROBE_QMD_GRID_Z,
    NVPROBE_QMD_BLOCK_X,
    NVPROBE_QMD_BLOCK_Y,
    NVPROBE_QMD_BLOCK_Z,
    NVPROBE_QMD_PROGRAM_LOW,
    NVPROBE_QMD_PROGRAM_HIGH,
    NVPROBE_QMD_SHARED,
    NVPROBE_QMD_L1,
    NVPROBE_QMD_SHARED_MIN,
    NVPROBE_QMD_SHARED_MAX,
    NVPROBE_QMD_SHARED_TARGET,
    NVPROBE_QMD_REGISTERS,
    NVPROBE_QMD_BARRIERS,
    NVPROBE_QMD_LOCAL_LOW,
    NVPROBE_QMD_LOCAL_HIGH,
    NVPROBE_QMD_CALL_STACK,
    NVPROBE_QMD_CONSTANT_VALID, // these five for each of 8 banks
    NVPROBE_QMD_CONSTANT_LOW,
    NVPROBE_QMD_CONSTANT_HIGH,
    NVPROBE_QMD_CONSTANT_SIZE,
    NVPROBE_QMD_CONSTANT_DROP,
    NVPROBE_QMD_RELEASE, // a semaphore at the launch's end
    NVPROBE_QMD_RELEASE_LOW,
    NVPROBE_QMD_RELEASE_HIGH,
    NVPROBE_QMD_RELEASE_SIZE,
    NVPROBE_QMD_RELEASE_MEMBAR,
    NVPROBE_QMD_RELEASE_PAYLOAD,
    NVPROBE_QMD_FIELDS
};

#define NVPROBE_BANKS 8
#define NVPROBE_QMD_WORDS 96 // of the largest

// Bits [low, low + width) of the metadata, `stride` further for each index of an array. Width 0:
// the generation has no such field.
struct nvprobe_bits {
    uint16_t low;
    uint8_t width, stride;
};

struct nvprobe_qmd_layout {
    uint8_t version, major, minor; // version: of the fields' places
    uint16_t words;
    uint16_t parameters;    // offset of a kernel's parameters in constant bank 0
    uint8_t constant_shift; // addresses of banks are stored shifted by this
    uint8_t size_shift;     // and their sizes by this
    bool wide_program;      // the program's address, not an offset from the program region
};

// NULL for NVPROBE_UNKNOWN.
const struct nvprobe_qmd_layout *nvprobe_qmd_layout(enum nvprobe_generation generation);
struct nvprobe_bits nvprobe_qmd_bits(const struct nvprobe_qmd_layout *layout,
    enum nvprobe_qmd_field field);
// Sets a field. False: there is no such field or index, or the value has too many bits.
bool nvprobe_qmd_set(const struct nvprobe_qmd_layout *layout, uint32_t *qmd,
    enum nvprobe_qmd_field field, unsigned index, uint64_t value);

struct nvprobe_launch {
    uint64_t program;        // address of the code
    uint64_t program_region; // start of the region of all code: Maxwell and Pascal
    uint32_t grid[3];        // blocks
    uint32_t block[3];       // threads
    uint32_t shared, local;  // bytes: of a block, of a thread
    uint32_t registers, barriers;
    struct {
        uint64_t address;
        uint32_t bytes; // 0: no such bank
    } bank[NVPROBE_BANKS];
    uint64_t release; // address of a semaphore that gets `payload` at the end; 0: none
    uint32_t payload;
};

// Writes layout->words words. False: something does not fit this generation's fields.
bool nvprobe_qmd_build(enum nvprobe_generation generation, const struct nvprobe_launch *launch,
    uint32_t *qmd);

// --- Push buffers -------------------------------------------------------------------------------

// A push buffer in the making. Once it is full, `full` is set and nothing more is written.
struct nvprobe_push {
    uint32_t *words;
    size_t room, count; // words
    bool full;
};

enum { NVPROBE_SUBCHANNEL_COMPUTE = 1 };

// Methods `method`, `method` + 4, ... of a subchannel get `count` values.
void nvprobe_push_methods(struct nvprobe_push *push, unsigned subchannel, unsigned method,
    const uint32_t *values, unsigned count);
void nvprobe_push_method(struct nvprobe_push *push, unsigned subchannel, unsigned method,
    uint32_t value);
// The class of the chip's compute engine, as open-gpu-doc numbers them; 0 for one that is unknown.
uint16_t nvprobe_compute_class(const struct nvprobe_chip *chip);
// Binds that class to its subchannel, and sets the program region where there is one.
void nvprobe_push_begin(struct nvprobe_push *push, const struct nvprobe_chip *chip,
    uint64_t program_region);
// Writes `bytes` (a multiple of 4) of data to the card's memory at `to`, through the push buffer.
void nvprobe_push_inline(struct nvprobe_push *push, uint64_t to, const void *data, size_t bytes);
// Launches what the metadata at `qmd`, a multiple of 256, say.
void nvprobe_push_launch(struct nvprobe_push *push, uint64_t qmd);
// The channel waits until the 32-bit semaphore at `address` is at least `value`; or stores `value`
// there once all earlier work is through.
void nvprobe_push_acquire(struct nvprobe_push *push, enum nvprobe_generation generation,
    uint64_t address, uint32_t value);
void nvprobe_push_release(struct nvprobe_push *push, enum nvprobe_generation generation,
    uint64_t address, uint32_t value);

// An entry of the ring of push buffers: `words` words at `address`. 0: does not fit.
uint64_t nvprobe_ring_entry(uint64_t address, size_t words);

#ifdef __cplusplus
}
#endif

#endif
