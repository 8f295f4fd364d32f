// What each layer kind computes: one function of (layer, own weights, table, run).
//
// A table holds [batch, token, channel] in float32 (float64 for the profile f64): each value is
// computed in float64 and rounded once, when it is stored. Pooled features have one token.

export class Table {
  constructor(run, batch, tokens, channels, value) {
    Object.assign(this, { batch, tokens, channels });
    this.data = new run.Real(batch * tokens * channels);
    let i = 0;
    for (let b = 0; b < batch; b++)
      for (let t = 0; t < tokens; t++)
        for (let c = 0; c < channels; c++) this.data[i++] = value(b, t, c);
  }

  at(b, t, c) {
    return this.data[(b * this.tokens + t) * this.channels + c];
  }
}

// A table like x, but for the sizes that are given.
const table = (run, x, value, { tokens = x.tokens, channels = x.channels } = {}) =>
  new Table(run, x.batch, tokens, channels, value);

const elementwise = (f) => (layer, w, x, run) =>
  table(run, x, (b, t, c) => f(x.at(b, t, c), layer, w, c));

function sum(n, term) {
  let total = 0;
  for (let i = 0; i < n; i++) total += term(i);
  return total;
}

// X W + b; the names of kernel and bias differ in attention alone.
function channelDense(run, x, kernel, bias) {
  const features = bias.length;
  const value = (b, t, f) =>
    bias[f] + sum(x.channels, (c) => x.at(b, t, c) * kernel[c * features + f]);
  return table(run, x, value, { channels: features });
}

const denseOfChannels = (layer, w, x, run) => channelDense(run, x, w.kernel, w.bias);

// Mean and deviation over n values, in two passes.
function moments(n, value, epsilon) {
  const mean = sum(n, value) / n;
  return [mean, Math.sqrt(sum(n, (i) => (value(i) - mean) ** 2) / n + epsilon)];
}

// [batch, height, width, rgb] lies in memory as a table of rows; pixels as in the kernel.
function patchEmbed(layer, w, image, run) {
  const [patchHeight, patchWidth] = layer.patch;
  const { batch, height, width, rgb, data } = image;
  const columns = width / patchWidth;
  const tokens = (height / patchHeight) * columns;
  const patches = new Table(run, batch, tokens, patchHeight * patchWidth * rgb, (b, t, p) => {
    const row = Math.floor(t / columns) * patchHeight + Math.floor(p / (patchWidth * rgb));
    const column = (t % columns) * patchWidth + (Math.floor(p / rgb) % patchWidth);
    return data[((b * height + row) * width + column) * rgb + (p % rgb)];
  });
  const found = channelDense(run, patches, w.kernel, w.bias);
  return Object.assign(found, { grid: [height / patchHeight, columns] });
}

function depthwiseConv({ window: [height, width] }, w, x, run) {
  const [rows, columns] = x.grid;
  const value = (b, t, c) =>
    w.bias[c] +
    sum(height * width, (k) => {
      const row = Math.floor(t / columns) + Math.floor(k / width) - (height >> 1);
      const column = (t % columns) + (k % width) - (width >> 1);
      if (row < 0 || row >= rows || column < 0 || column >= columns) return 0;
      return w.kernel[k * x.channels + c] * x.at(b, row * columns + column, c);
    });
  return table(run, x, value);
}

// The first and the second half of an axis.
function halves(run, x, axis) {
  const tokens = axis === "token" ? x.tokens / 2 : x.tokens;
  const channels = axis === "channel" ? x.channels / 2 : x.channels;
  const [down, right] = [x.tokens - tokens, x.channels - channels];
  return [
    table(run, x, (b, t, c) => x.at(b, t, c), { tokens, channels }),
    table(run, x, (b, t, c) => x.at(b, t + down, c + right), { tokens, channels }),
  ];
}

const times = (run, x, y) => table(run, x, (b, t, c) => x.at(b, t, c) * y.at(b, t, c));

function attention({ heads }, w, x, run) {
  const [query, key, value] = ["query", "key", "value"].map((name) =>
    channelDense(run, x, w[`${name}.kernel`], w[`${name}.bias`]),
  );
  const size = x.channels / heads;
  const { batch, tokens } = x;
  // [batch, head * token, token of the key]
  const scores = new Table(run, batch, heads * tokens, tokens, (b, ht, s) => {
    const [h, t] = [Math.floor(ht / tokens), ht % tokens];
    const product = (i) => query.at(b, t, h * size + i) * key.at(b, s, h * size + i);
    return sum(size, product) / Math.sqrt(size);
  });
  const rowOf = (b, ht) => Array.from({ length: tokens }, (_, s) => scores.at(b, ht, s));
  const largest = table(run, scores, (b, ht) => Math.max(...rowOf(b, ht)), { channels: 1 });
  const powers = table(run, scores, (b, ht, s) =>
    Math.exp(scores.at(b, ht, s) - largest.at(b, ht, 0)),
  );
  const mixed = table(run, x, (b, t, c) => {
    const row = Math.floor(c / size) * tokens + t;
    const total = sum(tokens, (s) => powers.at(b, row, s));
    return sum(tokens, (s) => powers.at(b, row, s) * value.at(b, s, c)) / total;
  });
  return channelDense(run, mixed, w["out.kernel"], w["out.bias"]);
}

function gelu(x, { approximation }) {
  const step =
    approximation === "tanh"
      ? Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x * x * x))
      : erf(x / Math.SQRT2);
  return 0.5 * x * (1 + step);
}

// Abramowitz and Stegun 7.1.6: terms of one sign, so that nothing cancels.
export function erf(x) {
  if (Number.isNaN(x)) return x;
  if (Math.abs(x) > 6) return Math.sign(x);
  let [term, total] = [x, x];
  for (let n = 1; Math.abs(term) > 1e-17 * Math.abs(total); n++) {
    term *= (2 * x * x) / (2 * n + 1);
    total += term;
  }
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * total;
}

function layerNorm({ epsilon }, w, x, run) {
  let mean, deviation;
  return table(run, x, (b, t, c) => {
    if (c === 0) [mean, deviation] = moments(x.channels, (i) => x.at(b, t, i), epsilon);
    return ((x.at(b, t, c) - mean) / deviation) * w.scale[c] + w.bias[c];
  });
}

function tokenNorm({ epsilon }, w, x, run) {
  const found = table(run, x, () => 0);
  for (let b = 0; b < x.batch; b++) {
    for (let c = 0; c < x.channels; c++) {
      const [mean, deviation] = moments(x.tokens, (t) => x.at(b, t, c), epsilon);
      for (let t = 0; t < x.tokens; t++) {
        const normed = (x.at(b, t, c) - mean) / deviation;
        found.data[(b * x.tokens + t) * x.channels + c] = normed * w.scale[t] + w.bias[t];
      }
    }
  }
  return found;
}

// W X + b
function tokenDense({ features }, w, x, run) {
  const value = (b, o, c) =>
    w.bias[o] + sum(x.tokens, (t) => w.kernel[o * x.tokens + t] * x.at(b, t, c));
  return table(run, x, value, { tokens: features });
}

// W_c x_c + b_c for every channel c
function untiedTokenDense({ features }, w, x, run) {
  const value = (b, o, c) => {
    const row = c * features + o;
    return w.bias[row] + sum(x.tokens, (t) => w.kernel[row * x.tokens + t] * x.at(b, t, c));
  };
  return table(run, x, value, { tokens: features });
}

function groupChannels({ groups }, w, x, run) {
  const sizes = { tokens: x.tokens * groups, channels: x.channels / groups };
  const from = (t, j) => [t % x.tokens, j * groups + Math.floor(t / x.tokens)];
  return table(run, x, (b, t, j) => x.at(b, ...from(t, j)), sizes);
}

function ungroupChannels({ groups }, w, x, run) {
  const sizes = { tokens: x.tokens / groups, channels: x.channels * groups };
  const from = (s, c) => [(c % groups) * sizes.tokens + s, Math.floor(c / groups)];
  return table(run, x, (b, s, c) => x.at(b, ...from(s, c)), sizes);
}

function spatialGate({ layers }, w, x, run) {
  const [u, v] = halves(run, x, "channel");
  return times(run, u, run.nested(layers, v));
}

function gatedUnit(layer, w, x, run) {
  const [first, second] = halves(run, x, layer.axis);
  const [gate, value] = layer.gate === "first" ? [first, second] : [second, first];
  return times(run, value, run.nested([layer.activation], gate));
}

function residual({ layers }, w, x, run) {
  const y = run.nested(layers, x);
  return table(run, x, (b, t, c) => x.at(b, t, c) + y.at(b, t, c));
}

function tokenEmbed({ features }, w, ids, run) {
  const word = (b, t) => ids.data[b * ids.tokens + t];
  const value = (b, t, c) => w.embedding[word(b, t) * features + c];
  return new Table(run, ids.batch, ids.tokens, features, value);
}

function classToken(layer, w, x, run) {
  const value = (b, t, c) => (t ? x.at(b, t - 1, c) : w.embedding[c]);
  return table(run, x, value, { tokens: x.tokens + 1 });
}

function meanPool(layer, w, x, run) {
  const value = (b, _, c) => sum(x.tokens, (t) => x.at(b, t, c)) / x.tokens;
  return table(run, x, value, { tokens: 1 });
}

const takeToken = ({ index }, w, x, run) =>
  table(run, x, (b, _, c) => x.at(b, index, c), { tokens: 1 });

export const LAYERS = {
  patch_embed: patchEmbed,
  token_embed: tokenEmbed,
  linear_embed: denseOfChannels,
  class_token: classToken,
  position_embedding: (layer, w, x, run) =>
    table(run, x, (b, t, c) => x.at(b, t, c) + w.embedding[t * x.channels + c]),
  layer_norm: layerNorm,
  token_norm: tokenNorm,
  affine: elementwise((x, layer, w, c) => x * w.scale[c] + w.bias[c]),
  layer_scale: elementwise((x, layer, w, c) => x * w.scale[c]),
  gelu: elementwise(gelu),
  silu: elementwise((x) => x / (1 + Math.exp(-x))),
  token_dense: tokenDense,
  untied_token_dense: untiedTokenDense,
  channel_dense: denseOfChannels,
  depthwise_conv: depthwiseConv,
  group_channels: groupChannels,
  ungroup_channels: ungroupChannels,
  spatial_gate: spatialGate,
  gated_unit: gatedUnit,
  attention,
  residual,
  mean_pool: meanPool,
  take_token: takeToken,
  head: denseOfChannels,
};
