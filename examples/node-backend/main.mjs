// Answers a folder of cases of mixer_spec's conformance suite: `node main.mjs DIR`.
// The protocol is docs/cases.md. Nothing but Node itself is needed.

import { existsSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import { Unsupported, forward } from "./model.mjs";
import { readTensors, writeTensors } from "./safetensors.mjs";

const PROFILES = { "f32-strict": [Float32Array, "F32"], f64: [Float64Array, "F64"] };

const ANSWERS = {
  forward({ spec, profile, taps }, weights, { inputs }) {
    const [Real, dtype] = PROFILES[profile];
    const found = Object.entries(forward(spec, weights, inputs, taps, Real));
    return Object.fromEntries(
      found.map(([tap, { shape, data }]) => [tap, { dtype, shape, bytes: bytesOf(data) }]),
    );
  },
  // The weights as they are held here: as they were read.
  export_weights: (request, weights) => weights,
};

const bytesOf = (data) => Buffer.from(data.buffer, data.byteOffset, data.byteLength);

const readJson = (...path) => JSON.parse(readFileSync(join(...path), "utf8"));

function writeJson(path, data) {
  writeFileSync(`${path}.tmp`, JSON.stringify(data));
  renameSync(`${path}.tmp`, path);
}

function answer(root, request) {
  if (!(request.kind in ANSWERS)) throw new Unsupported(`requests of kind ${request.kind}`);
  if (!(request.profile in PROFILES)) throw new Unsupported(`the profile ${request.profile}`);
  const weights = readTensors(join(root, request.weights));
  const inputs = request.inputs ? readTensors(join(root, request.inputs)) : {};
  return ANSWERS[request.kind](request, weights, inputs);
}

function main(root) {
  const index = readJson(root, "cases.json");
  if (index.schema_version !== 1) throw new Error(`schema_version ${index.schema_version}`);
  const versions = { node: process.versions.node };
  writeJson(join(root, "backend.json"), { name: "node", versions, device: "cpu", taps: true });
  let failed = 0;
  for (const { folder, digest } of index.requests) {
    const request = readJson(root, folder, "request.json");
    const [outputs, refusal] = [join(root, request.outputs), join(root, request.refusal)];
    for (const path of [outputs, refusal]) rmSync(path, { force: true });
    try {
      writeTensors(outputs, answer(root, request), { request: digest });
    } catch (error) {
      if (error instanceof Unsupported) {
        writeJson(refusal, { request: digest, unsupported: error.message });
      } else {
        console.error(`${folder}: ${error.stack}`); // without an answer; the judge tells
        failed++;
      }
    }
  }
  console.log(`${index.requests.length - failed} of ${index.requests.length} requests answered`);
  return failed ? 1 : 0;
}

if (process.argv.length !== 3 || !existsSync(join(process.argv[2], "cases.json"))) {
  console.error("usage: node main.mjs DIR, which `mixer-spec conformance cases export` wrote");
  process.exitCode = 2;
} else {
  process.exitCode = main(process.argv[2]);
}
