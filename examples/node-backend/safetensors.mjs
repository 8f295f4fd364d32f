// Reading and writing safetensors: eight bytes of length, a JSON header, then the arrays.

import { readFileSync, renameSync, writeFileSync } from "node:fs";

const SIZES = { F64: 8, F32: 4, F16: 2, BF16: 2, I64: 8 };

// The tensors of a file: name to { dtype, shape, bytes }.
export function readTensors(path) {
  const file = readFileSync(path);
  const begin = 8 + Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.toString("utf8", 8, begin));
  const tensors = {};
  for (const [name, { dtype, shape, data_offsets: [from, to] }] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    if (!(dtype in SIZES)) throw new Error(`${path}: ${name} has the unknown dtype ${dtype}`);
    tensors[name] = { dtype, shape, bytes: file.subarray(begin + from, begin + to) };
  }
  return tensors;
}

// Written beside its place and then renamed, so that no reader meets half a file.
export function writeTensors(path, tensors, metadata) {
  const header = { __metadata__: metadata };
  let end = 0;
  for (const [name, { dtype, shape, bytes }] of Object.entries(tensors)) {
    header[name] = { dtype, shape, data_offsets: [end, (end += bytes.length)] };
  }
  const text = Buffer.from(JSON.stringify(header));
  const padded = Buffer.concat([text, Buffer.alloc((8 - (text.length % 8)) % 8, " ")]);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(padded.length));
  const arrays = Object.values(tensors).map(({ bytes }) => bytes);
  writeFileSync(`${path}.tmp`, Buffer.concat([length, padded, ...arrays]));
  renameSync(`${path}.tmp`, path);
}

// The values of a tensor in the array type `Real`; every dtype is exact in float64.
export function values({ dtype, bytes }, Real) {
  const found = new Real(bytes.length / SIZES[dtype]);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  for (let i = 0; i < found.length; i++) found[i] = READ[dtype](view, i * SIZES[dtype]);
  return found;
}

const READ = {
  F64: (view, at) => view.getFloat64(at, true),
  F32: (view, at) => view.getFloat32(at, true),
  F16: (view, at) => halfFloat(view.getUint16(at, true)),
  BF16: (view, at) => upperHalf(view.getUint16(at, true)),
  I64: (view, at) => Number(view.getBigInt64(at, true)),
};

function halfFloat(bits) {
  const sign = bits >> 15 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

const word = new DataView(new ArrayBuffer(4));

// A bfloat16 is the upper half of a float32.
function upperHalf(bits) {
  word.setUint32(0, bits << 16);
  return word.getFloat32(0);
}
