// A spec's layers in the order of computation, their canonical names, and the forward pass.

import { LAYERS, Table } from "./layers.mjs";
import { values } from "./safetensors.mjs";

export class Unsupported extends Error {}

// Each kind's name in the list that it stands in; a name that ends in _ is numbered.
const NAMES = {
  layer_norm: "norm", token_norm: "norm", affine: "norm", layer_scale: "scale",
  gelu: "gelu_", silu: "silu_", token_dense: "dense_", untied_token_dense: "dense_",
  channel_dense: "dense_", depthwise_conv: "conv", group_channels: "group",
  ungroup_channels: "ungroup", spatial_gate: "gate", gated_unit: "gated_unit",
  attention: "attention", mean_pool: "pool", take_token: "pool", head: "head",
  patch_embed: "", token_embed: "", linear_embed: "",
  class_token: "class_token", position_embedding: "position",
};

// The layers of a list with their canonical paths.
function named(layers, path) {
  const counts = {};
  return layers.map((layer) => {
    let name = layer.kind === "residual" ? layer.name : NAMES[layer.kind];
    if (name === undefined) throw new Unsupported(`layers of kind ${layer.kind}`);
    if (name.endsWith("_")) name += counts[name] = (counts[name] ?? -1) + 1;
    return { layer, path: [path, name].filter(Boolean).join(".") };
  });
}

// Each tap with the layers that lead to it.
export function* steps(spec) {
  yield ["stem", named([spec.stem, ...spec.embeddings], "stem")];
  let block = 0;
  for (const [number, stage] of spec.stages.entries()) {
    let waiting = named(stage.transition, `transitions.${number}`);
    for (let repeat = 0; repeat < stage.depth; repeat++, block++) {
      for (const residual of stage.block) {
        const own = named([residual], `blocks.${block}`);
        yield [`blocks.${block}.${residual.name}`, [...waiting, ...own]];
        waiting = [];
      }
    }
  }
  yield ["norm", named([spec.norm], "")];
  yield ["pooled", named([spec.pool], "")];
  yield ["logits", named([spec.head], "")];
}

// The taps of one forward pass: name to { shape, data }.
export function forward(spec, weights, inputs, taps, Real) {
  const found = {};
  let x = entering(spec.input, inputs, Real);
  for (const [tap, layers] of steps(spec)) {
    for (const one of layers) x = compute(one, weights, x, Real);
    const flat = tap === "pooled" || tap === "logits";
    const shape = flat ? [x.batch, x.channels] : [x.batch, x.tokens, x.channels];
    if (taps.includes(tap)) found[tap] = { shape, data: x.data };
  }
  return found;
}

function compute({ layer, path }, weights, x, Real) {
  const run = {
    Real,
    nested: (layers, table) =>
      named(layers, path).reduce((y, one) => compute(one, weights, y, Real), table),
  };
  const y = LAYERS[layer.kind](layer, ownWeights(weights, path, Real), x, run);
  // Layers that keep the tokens keep the grid that they lie on.
  if (x.grid && !y.grid && x.tokens === y.tokens) y.grid = x.grid;
  return y;
}

function ownWeights(weights, path, Real) {
  const own = {};
  for (const [name, tensor] of Object.entries(weights)) {
    if (name.startsWith(`${path}.`)) own[name.slice(path.length + 1)] = values(tensor, Real);
  }
  return own;
}

function entering(input, tensor, Real) {
  const [batch, tokens, channels, rgb] = tensor.shape;
  if (input.kind === "image") {
    return { batch, height: tokens, width: channels, rgb, data: values(tensor, Real) };
  }
  if (input.kind === "token_ids") return { batch, tokens, data: values(tensor, Int32Array) };
  const data = values(tensor, Real);
  const value = (b, t, c) => data[(b * tokens + t) * channels + c];
  return new Table({ Real }, batch, tokens, channels, value);
}
