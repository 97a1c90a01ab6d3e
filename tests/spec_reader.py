#!/usr/bin/env python3
"""An independent reader of .nbl files, written from formats/SPEC.md alone.

    spec_reader.py FILE                    check every rule, list header, tensors, documents, aliases
    spec_reader.py FILE --decode TENSOR    write the tensor's values to standard output as little-endian F32
    spec_reader.py FILE --document NAME    write a document's bytes to standard output

Standard library only. Exit 0 if the file obeys the specification, 1 with one line naming the rule if not. It is slow
and simple on purpose: where it and the C reader differ, one of them or the specification is wrong.
"""

import argparse
import struct
import sys
import zlib

TYPES = ["F32", "F16", "BF16", "F64", "I8", "I16", "I32", "I64", "U8", "BOOL"]
TYPE_BYTES = [4, 2, 2, 8, 1, 2, 4, 8, 1, 1]
# Block type: weights and bytes of a block.
BLOCKS = {2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 10: (256, 84), 11: (256, 110), 12: (256, 144),
          13: (256, 176), 14: (256, 210), 20: (32, 18), 23: (256, 136), 34: (256, 54), 35: (256, 66), 39: (32, 17)}
TYPE_CODES = ["f", "e", None, "d", "b", "h", "i", "q", "B", "B"]
PLANES = {2: [2], 3: [2, 1], 4: [4], 5: [4, 1], 6: [4, 2], 8: [8]}


class Broken(Exception):
    pass


def rule(name, holds, text=""):
    if not holds:
        raise Broken(f"{name} does not hold{': ' if text else ''}{text}")


def align(value, to):
    return (value + to - 1) // to * to


def u32(data, at):
    return struct.unpack_from("<I", data, at)[0]


def u64(data, at):
    return struct.unpack_from("<Q", data, at)[0]


def tensor_name(data, what):
    rule(what, 1 <= len(data) <= 512 and b"\0" not in data, "length or zero byte")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise Broken(f"{what} does not hold: not UTF-8") from None


def document_name(data):
    rule("N30", 1 <= len(data) <= 255 and data not in (b".", b".."))
    rule("N30", not any(byte < 0x20 or byte in (0x7F, 0x2F) for byte in data))
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise Broken("N30 does not hold: not UTF-8") from None


class Tensor:
    """One record of the table and what sections 6 to 6c derive from it."""

    def __init__(self, data, at):
        (self.name_offset, self.name_bytes, self.type, self.storage, self.rank) = struct.unpack_from("<QIHBB", data, at)
        shape = struct.unpack_from("<8Q", data, at + 16)
        (self.bits, self.flags, zeros, self.group, self.offset, self.bytes, self.crc) = struct.unpack_from(
            "<BBHIQQI", data, at + 80)
        self.block, self.mask = zeros & 255, zeros >> 8
        rule("N17", self.type < len(TYPES))
        rule("N18", self.storage <= 3)
        rule("N19", self.rank <= 8 and not any(shape[self.rank:]))
        rule("N23", (self.block == 0 or self.storage == 2) and (self.mask == 0 or self.storage == 3))
        rule("N23", not any(data[at + 108:at + 128]))
        self.shape = list(shape[:self.rank])
        self.asymmetric = self.flags == 1
        product = 1
        for dimension in self.shape:
            product *= dimension or 1
        self.elements = 0 if 0 in self.shape else product
        rule("N20", product < 1 << 63)
        if self.storage == 0:
            rule("N21", self.bits == 0 and self.flags == 0 and self.group == 0)
            rule("N21", self.bytes == self.elements * TYPE_BYTES[self.type])
        elif self.storage == 2:
            rule("N38", TYPES[self.type] == "F32" and self.rank > 0 and self.block in BLOCKS)
            rule("N38", self.bits == 0 and self.flags == 0 and self.group == 0)
            weights, size = BLOCKS[self.block]
            rule("N38", self.shape[-1] % weights == 0 and self.bytes == self.elements // weights * size)
        elif self.storage == 3:
            self.lay_out_sparse()
        else:
            self.lay_out_tiles()
        rule("N20", self.bytes < 1 << 63)

    def lay_out_tiles(self):
        rule("N22", TYPES[self.type] == "F16" and self.rank == 2 and 0 not in self.shape)
        rule("N22", self.bits in PLANES and self.flags <= 1)
        self.rows, self.cols = self.shape
        rule("N22", self.group == self.cols or (self.group > 0 and self.group % 16 == 0 and self.cols % self.group == 0))
        self.groups = self.cols // self.group
        self.tiles = -(-self.rows // 8)
        self.blocks = -(-self.cols // 32)
        self.codes_end = self.tiles * self.blocks * 32 * self.bits
        self.scales_at = align(self.codes_end, 64)
        self.scales_end = self.scales_at + self.tiles * self.groups * 16
        self.zeros_at = align(self.scales_end, 64)
        end = self.zeros_at + self.tiles * self.groups * 8 if self.asymmetric else self.scales_end
        rule("N22", self.bytes == end)

    def lay_out_sparse(self):
        rule("N39", self.rank == 2 and 0 not in self.shape and self.mask in (1, 2) and self.flags == 0)
        self.rows, self.cols = self.shape
        self.asymmetric = False
        if self.bits:
            rule("N39", TYPES[self.type] == "F16" and self.bits in (2, 4, 8))
            rule("N39", self.group == self.cols or (self.group > 0 and self.group % 16 == 0 and self.cols % self.group == 0))
        else:
            rule("N39", TYPES[self.type] in ("F16", "BF16") and self.group == 0 and self.cols < 1 << 32)
        self.width = self.bits or 16
        self.groups = self.cols // self.group if self.bits else 0
        self.tiles = -(-self.rows // 8)
        self.blocks = -(-self.cols // 32)
        self.mask_bytes = 32 if self.mask == 1 else 24
        self.masks_end = self.tiles * self.blocks * self.mask_bytes
        self.offsets_at = align(self.masks_end, 64)
        self.offsets_end = self.offsets_at + (4 * (self.tiles + 1) if self.mask == 1 else 0)
        self.scales_at = align(self.offsets_end, 64)
        self.scales_end = self.scales_at + self.tiles * self.groups * 16
        self.codes_at = align(self.scales_end, 64)
        self.codes_end = self.bytes - 64
        stored = self.codes_end - self.codes_at
        if self.mask == 1:
            rule("N39", 0 <= stored <= self.tiles * self.blocks * 32 * self.width and stored % 8 == 0 and stored < 1 << 35)
        else:
            rule("N39", stored == self.tiles * self.blocks * 16 * self.width)

    def place(self, i):
        """Row and column of weight i of a block of a bitmap."""
        w = self.width
        if w == 16:
            return i // 32, i % 32
        byte, t = divmod(i, 8 // w)
        return byte % 32 // 4, 4 * (w * t + byte // 32) + byte % 4

    def read_bitmap(self, data, put):
        """Call put(row, column, code) for all that is stored; the rules of bitmaps."""
        w, at = self.width, self.codes_at
        rule("N40", u32(data, self.offsets_at) == 0, self.name)
        for tile in range(self.tiles):
            rule("N40", self.codes_at + 8 * u32(data, self.offsets_at + 4 * tile) == at, f"{self.name} tile {tile}")
            for block in range(self.blocks):
                mask = data[(tile * self.blocks + block) * 32:][:32]
                bit = 0
                for i in range(256):
                    if not mask[i // 8] >> i % 8 & 1:
                        continue
                    row, col = self.place(i)
                    row, col = row + 8 * tile, col + 32 * block
                    rule("N42", row < self.rows and col < self.cols, self.name)
                    byte = at + bit // 8
                    rule("N40", byte + w // 8 <= self.codes_end and byte < self.codes_end, self.name)
                    put(row, col, int.from_bytes(data[byte:byte + 2], "little") >> bit % 8 & ((1 << w) - 1))
                    bit += w
                if bit % 8:
                    rule("N43", data[at + bit // 8] >> bit % 8 == 0, self.name)
                at += -(-bit // 8)
            end = self.codes_at + align(at - self.codes_at, 8)
            rule("N43", not any(data[at:end]), self.name)
            at = end
        rule("N40", 8 * u32(data, self.offsets_at + 4 * self.tiles) == self.codes_end - self.codes_at, self.name)
        rule("N40", at == self.codes_end, self.name)

    def read_2_4(self, data, put):
        ways = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
        w = self.width
        for tile in range(self.tiles):
            for block in range(self.blocks):
                number = tile * self.blocks + block
                codes = data[self.codes_at + number * 16 * w:][:16 * w]
                for r in range(8):
                    bits = int.from_bytes(data[number * 24 + 3 * r:][:3], "little")
                    if w == 16:
                        line = codes[32 * r:32 * r + 32]
                    else:
                        line = b"".join(codes[32 * j + 4 * r:32 * j + 4 * r + 4] for j in range(w // 2))
                    line = int.from_bytes(line, "little")
                    for n in range(16):
                        two = bits >> 6 * (n // 4) & 63
                        rule("N41", two < 36, self.name)
                        way = ways[two // 6 if n // 2 % 2 else two % 6]
                        row, col = 8 * tile + r, 32 * block + n // 2 * 4 + way[n % 2]
                        code = line >> w * n & ((1 << w) - 1)
                        if row < self.rows and col < self.cols:
                            put(row, col, code)
                        else:
                            rule("N42", code == 0, self.name)

    def sparse_values(self, data):
        values = [[0.0] * self.cols for _ in range(self.rows)]

        def put(row, col, code):
            if self.bits:
                signed = code - (1 << self.bits) if code >> (self.bits - 1) else code
                values[row][col] = self.scale(data, row, col // self.group) * signed
                return
            infinite = 0x7C00 if TYPES[self.type] == "F16" else 0x7F80
            rule("N44", code & infinite != infinite, self.name)
            if TYPES[self.type] == "F16":
                values[row][col] = struct.unpack("<e", struct.pack("<H", code))[0]
            else:
                values[row][col] = struct.unpack("<f", struct.pack("<I", code << 16))[0]

        (self.read_bitmap if self.mask == 1 else self.read_2_4)(data, put)
        return values

    def check_sparse(self, data):
        for begin, end in ((self.masks_end, self.offsets_at), (self.offsets_end, self.scales_at),
                           (self.scales_end, self.codes_at), (self.codes_end, self.bytes)):
            rule("N43", not any(data[begin:end]), self.name)
        for row in range(self.tiles * 8):
            for group in range(self.groups):
                bits = self.scale_bits(data, row, group)
                rule("N44", bits & 0x7C00 != 0x7C00 if row < self.rows else bits == 0, f"{self.name} row {row}")
        self.sparse_values(data)

    def scale_bits(self, data, row, group):
        return struct.unpack_from("<H", data, self.scales_at + 2 * ((row // 8 * self.groups + group) * 8 + row % 8))[0]

    def scale(self, data, row, group):
        return struct.unpack_from("<e", data, self.scales_at + 2 * ((row // 8 * self.groups + group) * 8 + row % 8))[0]

    def zero(self, data, row, group):
        if not self.asymmetric:
            return 1 << (self.bits - 1)
        return data[self.zeros_at + (row // 8 * self.groups + group) * 8 + row % 8]

    def code(self, data, row, col):
        at = (row // 8 * self.blocks + col // 32) * 32 * self.bits
        c, shift, value = col % 32, 0, 0
        for w in PLANES[self.bits]:
            k, q = c % 4, c // 4
            j, t = q % w, q // w
            value |= ((data[at + j * 32 + row % 8 * 4 + k] >> (w * t)) & ((1 << w) - 1)) << shift
            shift += w
            at += 32 * w
        return value

    def check_tiles(self, data):
        rule("N33", not any(data[self.codes_end:self.scales_at]), self.name)
        if self.asymmetric:
            rule("N33", not any(data[self.scales_end:self.zeros_at]), self.name)
        for row in range(self.tiles * 8):
            for group in range(self.groups):
                bits, zero = self.scale_bits(data, row, group), self.zero(data, row, group)
                if row < self.rows:
                    rule("N34", bits & 0x7C00 != 0x7C00, f"{self.name} row {row} group {group}")
                    rule("N35", zero < 1 << self.bits, f"{self.name} row {row} group {group}")
                else:
                    rule("N36", bits == 0 and (zero == 0 or not self.asymmetric), f"{self.name} row {row}")
            begin = self.cols if row < self.rows else 0
            for col in range(begin, self.blocks * 32):
                if row < self.rows:
                    rule("N37", self.code(data, row, col) == self.zero(data, row, self.groups - 1), f"{self.name} row {row}")
                else:
                    rule("N36", self.code(data, row, col) == 0, f"{self.name} row {row}")

    def values(self, data):
        """All values, row-major."""
        if self.storage == 1:
            for row in range(self.rows):
                for col in range(self.cols):
                    group = col // self.group
                    yield self.scale(data, row, group) * (self.code(data, row, col) - self.zero(data, row, group))
        elif self.storage == 3:
            for row in self.sparse_values(data):
                yield from row
        elif TYPES[self.type] == "BF16":
            for (half,) in struct.iter_unpack("<H", data):
                yield struct.unpack("<f", struct.pack("<I", half << 16))[0]
        else:
            for (value,) in struct.iter_unpack("<" + TYPE_CODES[self.type], data):
                yield float(value)

    def describe(self):
        if self.storage == 0:
            return f"{self.name} {TYPES[self.type]} {self.shape} {self.bytes} bytes at {self.offset} crc {self.crc:08x}"
        if self.storage == 2:
            return f"{self.name} blocks of type {self.block} {self.shape} {self.bytes} bytes at {self.offset} crc {self.crc:08x}"
        if self.storage == 3:
            kind = f"{self.bits} bits, group {self.group}" if self.bits else TYPES[self.type]
            return (f"{self.name} sparse, {'bitmap' if self.mask == 1 else '2:4'}, {kind} {self.shape} {self.bytes} bytes at "
                    f"{self.offset} crc {self.crc:08x}")
        kind = "asymmetric" if self.asymmetric else "symmetric"
        return (f"{self.name} tiles of {self.bits} bits, group {self.group}, {kind} {self.shape} {self.bytes} bytes at "
                f"{self.offset} crc {self.crc:08x}")


class File:
    def __init__(self, data):
        self.data = data
        self.read_header()
        self.read_table()
        self.read_metadata()
        self.check_data()

    def read_header(self):
        data = self.data
        rule("N2", len(data) >= 128 and data[:8] == b"\x89NBL\r\n\x1a\n")
        rule("N3", u32(data, 12) == 0x0A0B0C0D)
        rule("N4", u32(data, 8) == 1)
        (self.file_bytes, self.count, table_offset, self.table_bytes, self.data_offset, self.data_bytes,
         self.metadata_offset, self.metadata_bytes) = struct.unpack_from("<8Q", data, 16)
        rule("N5", self.file_bytes == len(data))
        rule("N6", table_offset == 128)
        rule("N7", self.count <= 1000000 and 128 * self.count <= self.table_bytes <= 640 * self.count)
        rule("N8", self.data_offset == align(128 + self.table_bytes, 65536))
        rule("N9", self.metadata_offset == self.data_offset + self.data_bytes)
        rule("N10", self.metadata_offset + self.metadata_bytes == self.file_bytes and self.metadata_bytes <= 1 << 28)
        rule("N11", not any(data[80:124]))
        crc = zlib.crc32(data[:124])
        crc = zlib.crc32(data[128:128 + self.table_bytes], crc)
        crc = zlib.crc32(data[self.metadata_offset:], crc)
        rule("N12", u32(data, 124) == crc)
        rule("N13", not any(data[128 + self.table_bytes:self.data_offset]))

    def read_table(self):
        names_at = 128 + 128 * self.count
        name_offset, end, self.tensors, self.by_name = 0, self.data_offset, [], {}
        for i in range(self.count):
            tensor = Tensor(self.data, 128 + 128 * i)
            rule("N14", tensor.name_offset == name_offset)
            name_offset += tensor.name_bytes
            rule("N14", names_at + name_offset <= 128 + self.table_bytes)
            tensor.name = tensor_name(self.data[names_at + tensor.name_offset:names_at + name_offset], "N15")
            rule("N16", tensor.name not in self.by_name, tensor.name)
            rule("N24", tensor.offset == align(end, 64), tensor.name)
            end = tensor.offset + tensor.bytes
            rule("N25", end <= self.metadata_offset, tensor.name)
            self.tensors.append(tensor)
            self.by_name[tensor.name] = tensor
        rule("N14", names_at + name_offset == 128 + self.table_bytes)
        rule("N25", self.metadata_offset == align(end, 64))

    def take(self, count):
        rule("N28", self.at + count <= self.file_bytes)
        self.at += count
        return self.data[self.at - count:self.at]

    def read_metadata(self):
        self.at, self.documents, self.aliases = self.metadata_offset, {}, {}
        documents, aliases = struct.unpack("<II", self.take(8))
        rule("N29", documents <= 1024 and aliases <= 65536)
        for _ in range(documents):
            name_bytes, content_bytes = struct.unpack("<IQ", self.take(12))
            name = document_name(self.take(name_bytes))
            rule("N29", content_bytes <= 1 << 26, name)
            rule("N30", name not in self.documents, name)
            self.documents[name] = self.take(content_bytes)
        for _ in range(aliases):
            name_bytes, number = struct.unpack("<IQ", self.take(12))
            name = tensor_name(self.take(name_bytes), "N31")
            rule("N31", name not in self.by_name and name not in self.aliases, name)
            rule("N32", number < self.count, name)
            self.aliases[name] = self.tensors[number].name
        rule("N28", self.at == self.file_bytes)

    def bytes_of(self, tensor):
        return self.data[tensor.offset:tensor.offset + tensor.bytes]

    def check_data(self):
        end = self.data_offset
        for tensor in self.tensors:
            rule("N26", not any(self.data[end:tensor.offset]), f"before {tensor.name}")
            rule("N27", zlib.crc32(self.bytes_of(tensor)) == tensor.crc, tensor.name)
            if tensor.storage == 1:
                tensor.check_tiles(self.bytes_of(tensor))
            if tensor.storage == 3:
                tensor.check_sparse(self.bytes_of(tensor))
            end = tensor.offset + tensor.bytes
        rule("N26", not any(self.data[end:self.metadata_offset]))

    def describe(self):
        yield f"file {self.file_bytes} bytes, {self.count} tensors, data at {self.data_offset}"
        for tensor in self.tensors:
            yield "tensor " + tensor.describe()
        for name, content in self.documents.items():
            yield f"document {name} {len(content)} bytes"
        for alias, target in self.aliases.items():
            yield f"alias {alias} -> {target}"


def main():
    parser = argparse.ArgumentParser(description="Read a .nbl file by its specification.")
    parser.add_argument("file")
    parser.add_argument("--decode", metavar="TENSOR")
    parser.add_argument("--document", metavar="NAME")
    options = parser.parse_args()
    try:
        with open(options.file, "rb") as stream:
            file = File(stream.read())
    except Broken as broken:
        print(f"{options.file}: {broken}", file=sys.stderr)
        return 1
    if options.decode is not None:
        tensor = file.by_name[file.aliases.get(options.decode, options.decode)]
        for value in tensor.values(file.bytes_of(tensor)):
            sys.stdout.buffer.write(struct.pack("<f", value))
    elif options.document is not None:
        sys.stdout.buffer.write(file.documents[options.document])
    else:
        print("\n".join(file.describe()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
