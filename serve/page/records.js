// Files -> records: the framing of TFRecord, and as much of protobuf as it takes to name a record.
// Knows nothing of the page and nothing of the service.

const HEADER_BYTES = 12; // length, and its masked CRC-32C
const FOOTER_BYTES = 4; // masked CRC-32C of the payload
const MOST_PAYLOAD_BYTES = 64 * 2 ** 20;
export const MOST_RECORDS = 24;

const CRC_TABLE = new Uint32Array(256).map((_, index) => {
  let value = index;
  for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? (value >>> 1) ^ 0x82f63b78 : value >>> 1;
  return value;
});

function maskedCrc(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = CRC_TABLE[(crc ^ byte) & 0xff] ^ (crc >>> 8);
  crc = ~crc >>> 0;
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
}

const uint32 = (bytes, offset) => new DataView(bytes.buffer, bytes.byteOffset).getUint32(offset, true);

/** Returns read(offset, length) of a file, which gives fewer bytes at its end; gzip is unpacked as far as is read. */
async function openBytes(file) {
  const head = new Uint8Array(await file.slice(0, 2).arrayBuffer());
  if (head[0] !== 0x1f || head[1] !== 0x8b) {
    return async (offset, length) => new Uint8Array(await file.slice(offset, offset + length).arrayBuffer());
  }
  const reader = file.stream().pipeThrough(new DecompressionStream("gzip")).getReader();
  let bytes = new Uint8Array(2 ** 20), size = 0, isDone = false;
  return async (offset, length) => {
    while (!isDone && size < offset + length) {
      const { done, value } = await reader.read();
      isDone = done;
      if (done) break;
      if (size + value.length > bytes.length) {
        const larger = new Uint8Array(2 * (size + value.length));
        larger.set(bytes.subarray(0, size));
        bytes = larger;
      }
      bytes.set(value, size);
      size += value.length;
    }
    return bytes.slice(offset, Math.min(offset + length, size));
  };
}

function isHeader(bytes) {
  return bytes.length === HEADER_BYTES && uint32(bytes, 8) === maskedCrc(bytes.subarray(0, 8));
}

/**
 * Returns { isShard, hasMore, records: [{ title, numFrames, payload }] } of a file: the first records of a shard, or
 * the file itself as the one record that it is. Throws an Error whose message is for people.
 */
export async function openRecords(file) {
  if (file.size === 0) throw new Error(`${file.name}: the file is empty`);
  const read = await openBytes(file);
  if (!isHeader(await read(0, HEADER_BYTES))) {
    const payload = await read(0, MOST_PAYLOAD_BYTES + 1);
    if (payload.length > MOST_PAYLOAD_BYTES) throw new Error(`${file.name}: neither a TFRecord shard nor one record`);
    return { isShard: false, hasMore: false, records: [describe(payload, file.name)] };
  }
  const records = [];
  let offset = 0, header = await read(offset, HEADER_BYTES);
  for (; header.length > 0 && records.length < MOST_RECORDS; header = await read(offset, HEADER_BYTES)) {
    const payload = await readPayload(read, header, offset, `${file.name}: record ${records.length} at byte ${offset}`);
    records.push(describe(payload, `record ${records.length}`));
    offset += HEADER_BYTES + payload.length + FOOTER_BYTES;
  }
  return { isShard: true, hasMore: header.length > 0, records };
}

async function readPayload(read, header, offset, where) {
  if (!isHeader(header)) throw new Error(`${where}: its length is damaged`);
  const length = uint32(header, 0) + uint32(header, 4) * 2 ** 32;
  if (length > MOST_PAYLOAD_BYTES) throw new Error(`${where}: ${length} bytes are too many for a video`);
  const framed = await read(offset + HEADER_BYTES, length + FOOTER_BYTES);
  if (framed.length < length + FOOTER_BYTES) {
    throw new Error(`${where}: ${length} bytes promised, ${Math.min(framed.length, length)} found`);
  }
  const payload = framed.slice(0, length);
  if (uint32(framed, length) !== maskedCrc(payload)) throw new Error(`${where}: its checksum is wrong`);
  return payload;
}

/** Returns a record with a title; one that cannot be read has the given title: the service will say what is wrong. */
function describe(payload, title) {
  try {
    const { id, numFrames, labels } = parse(payload);
    return { title: id || title, numFrames, labels, payload };
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    return { title, numFrames: null, labels: [], payload };
  }
}

/** Returns the id and the labels of an Example or SequenceExample, and its frames: null where it has means alone. */
function parse(payload) {
  let id = "", numFrames = null, labels = [];
  for (const [section, entry] of mapEntries(payload)) {
    if (section === 1 && (entry.key === "id" || entry.key === "video_id")) {
      const texts = [...fieldsOf(entry.value, 1)].flatMap((list) => [...fieldsOf(list, 1)]);
      if (texts.length === 1) id = new TextDecoder().decode(texts[0]);
    } else if (section === 1 && entry.key === "labels") {
      const packed = [...fieldsOf(entry.value, 3)].flatMap((list) => [...fieldsOf(list, 1)]);
      labels = packed.flatMap((bytes) => [...varintsOf(bytes)]);
    } else if (section === 2) {
      numFrames = Math.max(numFrames ?? 0, [...fieldsOf(entry.value, 1)].length);
    }
  }
  return { id, numFrames, labels };
}

function* varintsOf(bytes) {
  let value = 0, scale = 1;
  for (const byte of bytes) {
    value += (byte & 0x7f) * scale;
    scale *= 128;
    if (byte < 0x80) {
      yield value;
      [value, scale] = [0, 1];
    }
  }
}

function* mapEntries(payload) {
  for (const section of [1, 2]) { // features or context, and feature lists
    for (const map of fieldsOf(payload, section)) {
      for (const entry of fieldsOf(map, 1)) {
        const [name] = fieldsOf(entry, 1);
        const [value] = fieldsOf(entry, 2);
        if (name && value) yield [section, { key: new TextDecoder().decode(name), value }];
      }
    }
  }
}

/** Yields the contents of each delimited field of a number. Throws a RangeError where this is no protobuf. */
function* fieldsOf(bytes, wanted) {
  let position = 0;
  const varint = () => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      if (position >= bytes.length || scale > 2 ** 63) throw new RangeError("no varint");
      const byte = bytes[position++];
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) return value;
    }
  };
  while (position < bytes.length) {
    const tag = varint(), number = Math.floor(tag / 8), type = tag % 8;
    if (type === 0) varint();
    else if (type === 1) position += 8;
    else if (type === 5) position += 4;
    else if (type === 2) {
      const length = varint();
      if (position + length > bytes.length) throw new RangeError("a field ends behind its message");
      if (number === wanted) yield bytes.subarray(position, position + length);
      position += length;
    } else throw new RangeError("no such wire type");
  }
}
