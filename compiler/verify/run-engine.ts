// Runs engine.onnx on a probe, from its specification alone: the first half as a prefill, the rest on top of its cache.
import { type Architecture, graphNames } from '../contract.ts'
import type { Probe } from './probes.ts'
import { floatsOf, repeat } from './run-model.ts'
import { type Feeds, floats, type GraphSession, ints } from './session.ts'
import type { SidePath } from './side-path.ts'

/** Per row, the logits of all positions, one after the other. */
export async function runEngine(
  session: GraphSession,
  architecture: Architecture,
  probe: Probe,
  side: SidePath,
): Promise<Float32Array[]> {
  const tokens = probe.ids.length
  const cache = emptyCache(architecture, side.rows, tokens)
  const rows = Array.from({ length: side.rows }, () => new Float32Array(tokens * architecture.vocabSize))
  const half = Math.floor(tokens / 2)
  for (const [from, to] of [
    [0, half],
    [half, tokens],
  ] as const) {
    if (from === to) continue
    const logits = await step(session, architecture, probe, side, cache, from, to)
    for (const [row, all] of rows.entries()) all.set(logits[row] as Float32Array, from * architecture.vocabSize)
  }
  return rows
}

async function step(
  session: GraphSession,
  architecture: Architecture,
  { ids, positions }: Probe,
  { rows, feeds, engine = feeds }: SidePath,
  cache: Feeds,
  from: number,
  to: number,
): Promise<Float32Array[]> {
  const tokens = to - from
  const wanted = Array.from({ length: rows * tokens }, (_, i) => [Math.floor(i / tokens), i % tokens]).flat()
  const results = await session.run({
    ...engine,
    ...cache,
    [graphNames.inputIds]: ints(repeat(ids.slice(from, to), rows), rows, tokens),
    [graphNames.positionIds]: ints(repeat(positions.slice(from, to), rows), rows, tokens),
    [graphNames.pastLengths]: ints(repeat([from], rows), rows),
    [graphNames.logitIndices]: ints(wanted, rows * tokens, 2),
  })
  store(results, cache, architecture, rows, from, tokens)
  const logits = floatsOf(results, graphNames.logits)
  const size = logits.length / rows
  return Array.from({ length: rows }, (_, row) => logits.subarray(row * size, (row + 1) * size))
}

function emptyCache({ layers, kvHeads, headDim }: Architecture, rows: number, capacity: number): Feeds {
  const cache: Record<string, Feeds[string]> = {}
  for (let layer = 0; layer < layers; layer += 1) {
    const size = rows * kvHeads * headDim * capacity
    cache[graphNames.cacheKey(layer)] = floats(new Float32Array(size), rows, kvHeads, headDim, capacity)
    cache[graphNames.cacheValue(layer)] = floats(new Float32Array(size), rows, kvHeads, capacity, headDim)
  }
  return cache
}

/** New keys [rows · H · D, tokens] and values [rows · H, tokens · D] go behind the `from` tokens that are there. */
function store(
  results: Feeds,
  cache: Feeds,
  { layers, kvHeads, headDim }: Architecture,
  rows: number,
  from: number,
  tokens: number,
): void {
  for (let layer = 0; layer < layers; layer += 1) {
    const [newKey, newValue] = [graphNames.newKey(layer), graphNames.newValue(layer)]
    copyLines(floatsOf(results, newKey), floatsOf(cache, graphNames.cacheKey(layer)), rows * kvHeads * headDim, {
      at: from,
      length: tokens,
    })
    copyLines(floatsOf(results, newValue), floatsOf(cache, graphNames.cacheValue(layer)), rows * kvHeads, {
      at: from * headDim,
      length: tokens * headDim,
    })
  }
}

function copyLines(
  source: Float32Array,
  target: Float32Array,
  lines: number,
  { at, length }: { readonly at: number; readonly length: number },
): void {
  const stride = target.length / lines
  for (let line = 0; line < lines; line += 1) {
    target.set(source.subarray(line * length, (line + 1) * length), line * stride + at)
  }
}
