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

function halves(run, x, axis) {
  const [tokens, channels] = [x.tokens, x.channels].map((n, i) =>
    (i === 0) === (axis === "token") ? n / 2 : n,
  );
  const [down, right] = [x.tokens - tokens, x.channels - channels];
  const first = table(run, x, (b, t, c) => x.at(b, t, c), { tokens, channels });
  const second = table(run, x, (b, t, c) => x.at(b, t + down, c + right), { tokens, channels });
  return [first, second].map((half) => (axis === "token" ? half : keepGrid(half, x)));
}

const keepGrid = (y, x) => Object.assign(y, x.grid ? { grid: x.grid } : {});

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
  const largest = table(run, scores, (b, ht) =>
    Array.from({ length: tokens }, (_, s) => scores.at(b, ht, s)).reduce((p, q) => Math.max(p, q)),
  { channels: 1 });
  const powers = table(run, scores, (b, ht, s) => Math.exp(scores.at(b, ht, s) - largest.at(b, ht, 0)));
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

export const LAYERS = {
  patch_embed: patchEmbed,
  linear_embed: denseOfChannels,
  token_embed: ({ features }, w, ids, run) =>
    new Table(run, ids.batch, ids.tokens, features, (b, t, c) =>
      w.embedding[ids.data[b * ids.tokens + t] * features + c]),
  class_token: (layer, w, x, run) =>
    table(run, x, (b, t, c) => (t ? x.at(b, t - 1, c) : w.embedding[c]), { tokens: x.tokens + 1 }),
  position_embedding: (layer, w, x, run) =>
    table(run, x, (b, t, c) => x.at(b, t, c) + w.embedding[t * x.channels + c]),
  layer_norm({ epsilon }, w, x, run) {
    let mean, deviation;
    return table(run, x, (b, t, c) => {
      if (c === 0) [mean, deviation] = moments(x.channels, (i) => x.at(b, t, i), epsilon);
      return ((x.at(b, t, c) - mean) / deviation) * w.scale[c] + w.bias[c];
    });
  },
  token_norm({ epsilon }, w, x, run) {
    const found = Array.from({ length: x.batch * x.channels }, (_, i) => {
      const [b, c] = [Math.floor(i / x.channels), i % x.channels];
      return moments(x.tokens, (t) => x.at(b, t, c), epsilon);
    });
    return table(run, x, (b, t, c) => {
      const [mean, deviation] = found[b * x.channels + c];
      return ((x.at(b, t, c) - mean) / deviation) * w.scale[t] + w.bias[t];
    });
  },
  affine: elementwise((x, layer, w, c) => x * w.scale[c] + w.bias[c]),
  layer_scale: elementwise((x, layer, w, c) => x * w.scale[c]),
  gelu: elementwise(gelu),
  silu: elementwise((x) => x / (1 + Math.exp(-x))),
  channel_dense: denseOfChannels,
  token_dense: ({ features }, w, x, run) =>
    table(run, x, (b, o, c) =>
      w.bias[o] + sum(x.tokens, (t) => w.kernel[o * x.tokens + t] * x.at(b, t, c)),
    { tokens: features }),
  untied_token_dense: ({ features }, w, x, run) =>
    table(run, x, (b, o, c) => {
      const row = c * features + o;
      return w.bias[row] + sum(x.tokens, (t) => w.kernel[row * x.tokens + t] * x.at(b, t, c));
    }, { tokens: features }),
  depthwise_conv: depthwiseConv,
  group_channels: ({ groups }, w, x, run) =>
    table(run, x, (b, t, j) => x.at(b, t % x.tokens, j * groups + Math.floor(t / x.tokens)),
      { tokens: x.tokens * groups, channels: x.channels / groups }),
  ungroup_channels({ groups }, w, x, run) {
    const tokens = x.tokens / groups;
    return table(run, x, (b, s, c) => x.at(b, (c % groups) * tokens + s, Math.floor(c / groups)),
      { tokens, channels: x.channels * groups });
  },
  spatial_gate(layer, w, x, run) {
    const [u, v] = halves(run, x, "channel");
    return times(run, u, run.nested(layer.layers, v));
  },
  gated_unit(layer, w, x, run) {
    const [first, second] = halves(run, x, layer.axis);
    const [gate, value] = layer.gate === "first" ? [first, second] : [second, first];
    return times(run, value, run.nested([layer.activation], gate));
  },
  attention,
  residual(layer, w, x, run) {
    const y = run.nested(layer.layers, x);
    return table(run, x, (b, t, c) => x.at(b, t, c) + y.at(b, t, c));
  },
  mean_pool: (layer, w, x, run) =>
    table(run, x, (b, _, c) => sum(x.tokens, (t) => x.at(b, t, c)) / x.tokens, { tokens: 1 }),
  take_token: ({ index }, w, x, run) => table(run, x, (b, _, c) => x.at(b, index, c), { tokens: 1 }),
  head: denseOfChannels,
};
