// ring.h: the client's end of the shared memory, for the other files of ucuda: records out,
// completions in, and the heap, which holds what is copied until gpud has taken or written it.
#ifndef CLLM_UCUDA_RING_H
#define CLLM_UCUDA_RING_H

#include "ucuda.h"

// What ring_begin() lets through.
enum ring_mode {
    RING_HEALTHY, // nothing failed so far
    RING_SICK,    // also after a failure, while gpud lives: to free what there is
};

// Takes the lock. On failure the lock is not taken, and the code is what the caller returns.
int ring_begin(enum ring_mode mode);
// Gives the lock back; returns `code`.
int ring_end(int code);

// The functions below need the lock.

// Space in the ring for a record of `bytes`, which may be 64 to UCUDA_RECORD_MAX, zeroed behind its
// header; NULL when gpud is lost. The record counts after ring_commit() or ring_ask().
void *ring_reserve(enum ucuda_op op, unsigned device, uint32_t stream, size_t bytes);
// Queues the record. Returns its number.
uint64_t ring_commit(void);
// Queues the record and waits for its completion. ret may be NULL.
int ring_ask(uint64_t ret[2]);
// Lets gpud know of all that is queued.
void ring_flush(void);

// Waits a little; 0, or why there is no point in waiting: UCUDA_ELOST. `turn` counts from 0.
int ring_pause(unsigned turn);
// The code of the first failure, if there was one.
int ring_error(void);
uint64_t ring_done(void);
// gpud has done all that is queued, or handed it to the device.
bool ring_idle(void);

const struct ucuda_transport *ring_transport(void);
const struct ucuda_info *ring_info(void);
struct ucuda_stats *ring_counts(void);

// The heap, a queue of regions: they are freed in the order in which they were taken.
void heap_start(void);
// A region of at most heap_most() bytes; waits for older ones to be free. NULL when gpud is lost.
struct heap_region *heap_take(uint32_t bytes);
uint32_t heap_most(void);
uint32_t heap_offset(const struct heap_region *region);
void *heap_bytes(const struct heap_region *region);
// The region is free once gpud has done record `seq`.
void heap_free_after(struct heap_region *region, uint64_t seq);

// Work of the streams that gpud may not have done yet, as far as it matters to a synchronisation.
void pending_start(void);
void pending_mark(unsigned device, uint32_t stream);
// UCUDA_OK without a round trip when nothing is pending.
int pending_wait(unsigned device, uint32_t stream, bool whole_device);
bool pending_any(unsigned device, uint32_t stream);
void pending_clear(unsigned device, uint32_t stream);

// Copies from the device that a later synchronisation completes.
void later_start(void);
bool later_add(unsigned device, struct heap_region *region, void *to,
    const struct ucuda_rect *to_rect);
bool later_any(unsigned device);
// The device is through: moves its data to where they were asked for.
void later_settle(unsigned device);
// Room in the heap is needed: waits for all devices that have such copies.
int later_flush(void);

#endif
