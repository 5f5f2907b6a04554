// The `_netbuf` module: bounds checks and argument conversion around native/netbuf.
//
//   checksum(buf, start, length, initial=0) -> int    folded RFC 1071 sum, not inverted
//   copy(dst, dst_off, src, src_off, n)               ranges may overlap
//   segment(frame, length) -> tuple                   the fields of a plain TCP segment, or None:
//       (destination, port, source << 16 | source port, seq, ack, flags, window, start, end,
//       None or (TSval, TSecr, ())); of IPv6, the destination is bytes, and so is the source with
//       the two bytes of its port behind it; checksums are not looked at
//   emit(frame, header, seq, ack, flags, window, value, echo, ring, at, length) -> int
//       netbuf_emit(): text is ring[at:], then ring[0:], both `length` bytes together; without
//       text `ring` is not read. Numbers are taken modulo 2^32
//   merge(packet, length, frame, size) -> int         netbuf_merge(); room is the packet's buffer
//
// A range outside its buffer raises ValueError; nothing is read or written then.
#include <string.h>

#include "py/runtime.h"

#include "netbuf.h"

// The address of `count` bytes at offset `start` of a buffer object.
static uint8_t *range(mp_obj_t buf, mp_uint_t flags, mp_obj_t start_in, mp_int_t count) {
    mp_buffer_info_t info;
    mp_get_buffer_raise(buf, &info, flags);
    mp_int_t start = mp_obj_get_int(start_in);
    if (start < 0 || count < 0 || (mp_uint_t)start > info.len
        || (mp_uint_t)count > info.len - (mp_uint_t)start) {
        mp_raise_ValueError(MP_ERROR_TEXT("range outside buffer"));
    }
    return (uint8_t *)info.buf + start;
}

static mp_obj_t netbuf_checksum_py(size_t n_args, const mp_obj_t *args) {
    mp_int_t length = mp_obj_get_int(args[2]);
    const uint8_t *data = range(args[0], MP_BUFFER_READ, args[1], length);
    mp_int_t initial = n_args > 3 ? mp_obj_get_int(args[3]) : 0;
    if (initial < 0 || initial > 0xffffffff) {
        mp_raise_ValueError(MP_ERROR_TEXT("initial sum outside 32 bits"));
    }
    return MP_OBJ_NEW_SMALL_INT(netbuf_checksum(data, length, initial));
}
static MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(netbuf_checksum_obj, 3, 4, netbuf_checksum_py);

static mp_obj_t netbuf_copy_py(size_t n_args, const mp_obj_t *args) {
    (void)n_args;
    mp_int_t count = mp_obj_get_int(args[4]);
    uint8_t *to = range(args[0], MP_BUFFER_WRITE, args[1], count);
    const uint8_t *from = range(args[2], MP_BUFFER_READ, args[3], count);
    netbuf_copy(to, from, count);
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(netbuf_copy_obj, 5, 5, netbuf_copy_py);

static uint32_t number(const uint8_t *p) {
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static mp_obj_t netbuf_segment_py(mp_obj_t frame, mp_obj_t length_in) {
    mp_int_t length = mp_obj_get_int(length_in);
    struct netbuf_segment s;
    const uint8_t *data = range(frame, MP_BUFFER_READ, MP_OBJ_NEW_SMALL_INT(0), length);
    if (!netbuf_parse(data, (size_t)length, false, &s)) {
        return mp_const_none;
    }
    mp_obj_t stamps = mp_const_none;
    if (s.timestamps) {
        mp_obj_t pair[3] = {
            MP_OBJ_NEW_SMALL_INT(s.value),
            MP_OBJ_NEW_SMALL_INT(s.echo),
            mp_const_empty_tuple,
        };
        stamps = mp_obj_new_tuple(3, pair);
    }
    mp_obj_t destination, peer;
    if (s.ip == 20) {
        destination = MP_OBJ_NEW_SMALL_INT(number(s.addresses + 4));
        peer = MP_OBJ_NEW_SMALL_INT((mp_int_t)number(s.addresses) << 16 | s.source_port);
    } else {
        uint8_t key[18];
        memcpy(key, s.addresses, 16);
        memcpy(key + 16, data + s.start - (s.timestamps ? 32 : 20), 2);
        destination = mp_obj_new_bytes(s.addresses + 16, 16);
        peer = mp_obj_new_bytes(key, sizeof(key));
    }
    mp_obj_t item[10] = {
        destination,
        MP_OBJ_NEW_SMALL_INT(s.port),
        peer,
        MP_OBJ_NEW_SMALL_INT(s.seq),
        MP_OBJ_NEW_SMALL_INT(s.ack),
        MP_OBJ_NEW_SMALL_INT(s.flags),
        MP_OBJ_NEW_SMALL_INT(s.window),
        MP_OBJ_NEW_SMALL_INT(s.start),
        MP_OBJ_NEW_SMALL_INT(s.end),
        stamps,
    };
    return mp_obj_new_tuple(10, item);
}
static MP_DEFINE_CONST_FUN_OBJ_2(netbuf_segment_obj, netbuf_segment_py);

static mp_obj_t netbuf_merge_py(size_t n_args, const mp_obj_t *args) {
    (void)n_args;
    mp_buffer_info_t packet;
    mp_get_buffer_raise(args[0], &packet, MP_BUFFER_WRITE);
    mp_int_t length = mp_obj_get_int(args[1]), size = mp_obj_get_int(args[3]);
    range(args[0], MP_BUFFER_WRITE, MP_OBJ_NEW_SMALL_INT(0), length);
    const uint8_t *frame = range(args[2], MP_BUFFER_READ, MP_OBJ_NEW_SMALL_INT(0), size);
    size_t merged = netbuf_merge(packet.buf, (size_t)length, packet.len, frame, (size_t)size);
    return MP_OBJ_NEW_SMALL_INT(merged);
}
static MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(netbuf_merge_obj, 4, 4, netbuf_merge_py);

static uint32_t word(mp_obj_t number) {
    return (uint32_t)mp_obj_get_int_truncated(number);
}

static mp_obj_t netbuf_emit_py(size_t n_args, const mp_obj_t *args) {
    (void)n_args;
    mp_buffer_info_t frame, header, ring = {0};
    mp_get_buffer_raise(args[0], &frame, MP_BUFFER_WRITE);
    mp_get_buffer_raise(args[1], &header, MP_BUFFER_READ);
    mp_int_t length = mp_obj_get_int(args[10]), at = 0;
    if (length) {
        mp_get_buffer_raise(args[8], &ring, MP_BUFFER_READ);
        at = mp_obj_get_int(args[9]);
    }
    size_t fixed =
        header.len - (header.len >= NETBUF_HEADER + NETBUF_MORE_IPV6 ? NETBUF_MORE_IPV6 : 0);
    if ((fixed != NETBUF_HEADER && fixed != NETBUF_HEADER + NETBUF_TIMESTAMPS)
        || (*(const uint8_t *)header.buf >> 4 == 6) != (fixed != header.len) || length < 0 || at < 0
        || (size_t)at > ring.len || (size_t)length > ring.len || frame.len < 14 + header.len
        || (size_t)length > frame.len - 14 - header.len) {
        mp_raise_ValueError(MP_ERROR_TEXT("range outside buffer"));
    }
    struct netbuf_fields fields = {
        .seq = word(args[2]),
        .ack = word(args[3]),
        .flags = (uint8_t)word(args[4]),
        .window = (uint16_t)word(args[5]),
        .value = word(args[6]),
        .echo = word(args[7]),
    };
    size_t first = MIN((size_t)length, ring.len - (size_t)at);
    const uint8_t *text = ring.buf;
    return MP_OBJ_NEW_SMALL_INT(netbuf_emit(frame.buf, header.buf, header.len, &fields, text + at,
        first, text, (size_t)length - first));
}
static MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(netbuf_emit_obj, 11, 11, netbuf_emit_py);

static const mp_rom_map_elem_t netbuf_globals_table[] = {
    {MP_ROM_QSTR(MP_QSTR___name__), MP_ROM_QSTR(MP_QSTR__netbuf)},
    {MP_ROM_QSTR(MP_QSTR_checksum), MP_ROM_PTR(&netbuf_checksum_obj)},
    {MP_ROM_QSTR(MP_QSTR_copy), MP_ROM_PTR(&netbuf_copy_obj)},
    {MP_ROM_QSTR(MP_QSTR_segment), MP_ROM_PTR(&netbuf_segment_obj)},
    {MP_ROM_QSTR(MP_QSTR_emit), MP_ROM_PTR(&netbuf_emit_obj)},
    {MP_ROM_QSTR(MP_QSTR_merge), MP_ROM_PTR(&netbuf_merge_obj)},
};
static MP_DEFINE_CONST_DICT(netbuf_globals, netbuf_globals_table);

const mp_obj_module_t netbuf_module = {
    .base = {&mp_type_module},
    .globals = (mp_obj_dict_t *)&netbuf_globals,
};

MP_REGISTER_MODULE(MP_QSTR__netbuf, netbuf_module);
