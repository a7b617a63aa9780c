// Runs the two forms of a compiled graph from their specification alone (docs/artifact-format.md), the way a user would.
import { join } from 'node:path'
import { type AdapterEntry, graphNames, type Manifest } from '../../compiler/contract.ts'
import { type CompiledAdapter, readAdapter } from '../../compiler/read-adapter.ts'
import { openFolder } from '../../runtime/disk.ts'
import { openSession, type Session, type Tensor } from '../../runtime/node.ts'

export interface Row {
  readonly ids: readonly number[]
  /** Name of the adapter; absent for the base. */
  readonly adapter?: string | undefined
}

export type Feeds = Record<string, Tensor>

export const float = (data: Float32Array, ...dims: number[]): Tensor => ({ data, dims })
export const int = (values: readonly number[], ...dims: number[]): Tensor => ({
  data: BigInt64Array.from(values, BigInt),
  dims,
})

/** A bank on the host, slot 0 zeros; `slotOf` says where each adapter lies. */
export interface Bank {
  readonly feeds: Feeds
  readonly slotOf: ReadonlyMap<string | undefined, number>
}

export async function loadAdapter(path: string, manifest: Manifest, entry: AdapterEntry): Promise<CompiledAdapter> {
  const file = await openFolder(path).open(entry.file ?? '')
  if (file === undefined) throw new Error(`${entry.name} has no file`)
  try {
    return await readAdapter(file, manifest)
  } finally {
    await file.close()
  }
}

/** `layout[k]` is the adapter in slot k + 1; `rank` may exceed every adapter's. */
export function fillBank(manifest: Manifest, layout: readonly CompiledAdapter[], rank: number): Bank {
  const slots = layout.length + 1
  const feeds: Feeds = {}
  for (const { module, in: inSize, out } of manifest.bank) {
    const A = new Float32Array(slots * inSize * rank)
    const B = new Float32Array(slots * rank * out)
    for (const [index, adapter] of layout.entries()) {
      const found = adapter.modules.get(module)
      if (found === undefined) continue
      const slot = index + 1
      for (let i = 0; i < inSize; i += 1) {
        A.set(found.A.subarray(i * found.r, (i + 1) * found.r), (slot * inSize + i) * rank)
      }
      B.set(found.B, slot * rank * out)
    }
    feeds[graphNames.bankA(module)] = float(A, slots, inSize, rank)
    feeds[graphNames.bankB(module)] = float(B, slots, rank, out)
  }
  return { feeds, slotOf: new Map([[undefined, 0], ...layout.map(({ name }, index) => [name, index + 1] as const)]) }
}

function bankFeeds(bank: Bank | undefined, rows: readonly Row[]): Feeds {
  if (bank === undefined) return {}
  return { ...bank.feeds, [graphNames.adapterSlots]: int(slotsOf(bank, rows), rows.length) }
}

function slotsOf(bank: Bank, rows: readonly Row[]): number[] {
  return rows.map(({ adapter }) => {
    const slot = bank.slotOf.get(adapter)
    if (slot === undefined) throw new Error(`no slot holds ${adapter}`)
    return slot
  })
}

/** For engine-shared.onnx, the factors of the one adapter; for engine.onnx as few groups as there can be where neighbours use the same adapter equally often, else one a row. */
function groupFeeds(
  inputs: readonly string[],
  manifest: Manifest,
  bank: Bank | undefined,
  rows: readonly Row[],
): Feeds {
  if (bank === undefined) return {}
  const slots = slotsOf(bank, rows)
  const groups = groupsOf(slots)
  const slice = (name: string, slot: number) => {
    const { data, dims } = bank.feeds[name] as Tensor
    const size = data.length / (dims[0] ?? 1)
    return (data as Float32Array).subarray(slot * size, (slot + 1) * size)
  }
  const feeds: Feeds = {}
  let next = 0
  while (next < manifest.bank.length) {
    const others = manifest.bank.slice(next + 1)
    // A linear that no A is named after shares that of the one before it.
    const end = others.findIndex(
      ({ module }) => inputs.includes(graphNames.pathA(module)) || inputs.includes(graphNames.sharedA(module)),
    )
    const linears = manifest.bank.slice(next, end === -1 ? undefined : next + 1 + end)
    next += linears.length
    const [first] = linears as [Manifest['bank'][number]]
    const R = bank.feeds[graphNames.bankA(first.module)]?.dims[2] ?? 0
    const wide = R * linears.length
    const A = new Float32Array(groups.length * first.in * wide)
    const width = linears.reduce((sum, { out }) => sum + out, 0)
    const diagonal = new Float32Array(wide * width)
    const isShared = inputs.includes(graphNames.sharedA(first.module))
    let column = 0
    for (const [index, { module, out }] of linears.entries()) {
      const B = new Float32Array(groups.length * R * out)
      for (const [group, slot] of groups.entries()) {
        B.set(slice(graphNames.bankB(module), slot), group * R * out)
        const columns = slice(graphNames.bankA(module), slot)
        for (let i = 0; i < first.in; i += 1) {
          A.set(columns.subarray(i * R, (i + 1) * R), (group * first.in + i) * wide + index * R)
        }
      }
      for (let k = 0; k < R; k += 1) {
        diagonal.set(B.subarray(k * out, (k + 1) * out), (index * R + k) * width + column)
      }
      column += out
      if (!isShared) feeds[graphNames.pathB(module)] = float(B, groups.length, R, out)
    }
    if (isShared) {
      feeds[graphNames.sharedA(first.module)] = float(A, first.in, wide)
      feeds[graphNames.sharedB(first.module)] = float(diagonal, wide, width)
    } else feeds[graphNames.pathA(first.module)] = float(A, groups.length, first.in, wide)
  }
  return feeds
}

function groupsOf(slots: readonly number[]): readonly number[] {
  for (let each = slots.length; each > 1; each -= 1) {
    const starts = slots.filter((_, row) => row % each === 0)
    if (slots.length % each === 0 && slots.every((slot, row) => slot === starts[Math.floor(row / each)])) return starts
  }
  return slots
}

/** Row-wise logits: [row][position][vocab]. */
export type Logits = Float32Array[][]

export class ModelRunner {
  readonly #session: Session
  readonly #manifest: Manifest

  constructor(session: Session, manifest: Manifest) {
    this.#session = session
    this.#manifest = manifest
  }

  static async open(path: string, manifest: Manifest): Promise<ModelRunner> {
    return new ModelRunner(await openSession(join(path, manifest.graphs.model), { threads: 1 }), manifest)
  }

  release = () => this.#session.release()

  /** One run over `rows`, whose `ids` are cut to [from, to) of each; the cache of the earlier part is in `past`. */
  async step(rows: readonly Row[], from: number, to: number, bank?: Bank, past?: Feeds) {
    const { layers, kvHeads, headDim } = this.#manifest.base.architecture
    const [batch, tokens] = [rows.length, to - from]
    const feeds: Feeds = {
      [graphNames.inputIds]: int(
        rows.flatMap(({ ids }) => ids.slice(from, to)),
        batch,
        tokens,
      ),
      [graphNames.positionIds]: int(
        rows.flatMap(() => range(from, to)),
        batch,
        tokens,
      ),
      [graphNames.attentionMask]: int(
        Array.from({ length: batch * to }, () => 1),
        batch,
        to,
      ),
      ...bankFeeds(bank, rows),
    }
    for (let layer = 0; layer < layers; layer += 1) {
      const empty = float(new Float32Array(), batch, kvHeads, 0, headDim)
      feeds[graphNames.pastKey(layer)] = past?.[graphNames.presentKey(layer)] ?? empty
      feeds[graphNames.pastValue(layer)] = past?.[graphNames.presentValue(layer)] ?? empty
    }
    const results = await this.#session.run(feeds)
    return { logits: apart(results, batch, tokens), results }
  }

  /** Rows of different lengths in one run, padded on one side with `attention_mask` 0. */
  async padded(rows: readonly Row[], side: 'left' | 'right', bank?: Bank): Promise<Logits> {
    const { layers, kvHeads, headDim } = this.#manifest.base.architecture
    const longest = Math.max(...rows.map(({ ids }) => ids.length))
    const pad = (values: readonly number[], filler: number) => {
      const fill = Array.from({ length: longest - values.length }, () => filler)
      return side === 'left' ? [...fill, ...values] : [...values, ...fill]
    }
    const feeds: Feeds = {
      [graphNames.inputIds]: int(
        rows.flatMap(({ ids }) => pad(ids, 0)),
        rows.length,
        longest,
      ),
      [graphNames.positionIds]: int(
        rows.flatMap(({ ids }) => pad(range(0, ids.length), 1)),
        rows.length,
        longest,
      ),
      [graphNames.attentionMask]: int(
        rows.flatMap(({ ids }) =>
          pad(
            ids.map(() => 1),
            0,
          ),
        ),
        rows.length,
        longest,
      ),
      ...bankFeeds(bank, rows),
    }
    for (let layer = 0; layer < layers; layer += 1) {
      feeds[graphNames.pastKey(layer)] = float(new Float32Array(), rows.length, kvHeads, 0, headDim)
      feeds[graphNames.pastValue(layer)] = float(new Float32Array(), rows.length, kvHeads, 0, headDim)
    }
    const logits = apart(await this.#session.run(feeds), rows.length, longest)
    return logits.map((row, index) => {
      const length = rows[index]?.ids.length ?? 0
      return side === 'left' ? row.slice(longest - length) : row.slice(0, length)
    })
  }
}

export class EngineRunner {
  readonly #session: Session
  readonly #manifest: Manifest

  constructor(session: Session, manifest: Manifest) {
    this.#session = session
    this.#manifest = manifest
  }

  static async open(path: string, manifest: Manifest): Promise<EngineRunner> {
    return new EngineRunner(await openSession(join(path, manifest.graphs.engine), { threads: 1 }), manifest)
  }

  /** engine-shared.onnx: of a step whose rows all use one adapter. */
  static async openShared(path: string, manifest: Manifest): Promise<EngineRunner> {
    return new EngineRunner(await openSession(join(path, manifest.graphs.shared ?? ''), { threads: 1 }), manifest)
  }

  release = () => this.#session.release()

  /** `filler`: what unused entries hold. */
  newCache(batch: number, capacity: number, filler = 0): Feeds {
    const { layers, kvHeads, headDim } = this.#manifest.base.architecture
    const cache: Feeds = {}
    for (let layer = 0; layer < layers; layer += 1) {
      const block = () => new Float32Array(batch * kvHeads * headDim * capacity).fill(filler)
      cache[graphNames.cacheKey(layer)] = float(block(), batch, kvHeads, headDim, capacity)
      cache[graphNames.cacheValue(layer)] = float(block(), batch, kvHeads, capacity, headDim)
    }
    return cache
  }

  /**
   * One run over the new tokens `ids[past[i] … past[i] + counts[i])` of each row, ragged rows padded on the right.
   * Writes the new rows into `cache`. Gives logits of every new token, [row][token][vocab].
   */
  async step(
    rows: readonly Row[],
    past: readonly number[],
    counts: readonly number[],
    cache: Feeds,
    bank?: Bank,
  ): Promise<Logits> {
    const tokens = Math.max(...counts)
    const window = (row: number) => range(past[row] ?? 0, (past[row] ?? 0) + tokens)
    const last = this.#manifest.base.architecture.maxPositions - 1
    const pairs = counts.flatMap((count, row) => range(0, count).map((token) => [row, token]))
    const results = await this.#session.run({
      [graphNames.inputIds]: int(
        rows.flatMap(({ ids }, row) =>
          window(row).map((at) => ids.slice(0, (past[row] ?? 0) + (counts[row] ?? 0))[at] ?? 7),
        ),
        rows.length,
        tokens,
      ),
      [graphNames.positionIds]: int(
        rows.flatMap((_, row) => window(row).map((at) => Math.min(at, last))),
        rows.length,
        tokens,
      ),
      [graphNames.pastLengths]: int(past, rows.length),
      [graphNames.logitIndices]: int(pairs.flat(), pairs.length, 2),
      ...cache,
      ...groupFeeds(this.#session.inputs, this.#manifest, bank, rows),
    })
    this.#store(results, past, counts, tokens, cache)
    const flat = apart(results, 1, pairs.length)[0] ?? []
    return counts.map((count, row) => {
      const start = counts.slice(0, row).reduce((sum, before) => sum + before, 0)
      return flat.slice(start, start + count)
    })
  }

  #store(results: Feeds, past: readonly number[], counts: readonly number[], tokens: number, cache: Feeds): void {
    const { layers, kvHeads, headDim } = this.#manifest.base.architecture
    for (let layer = 0; layer < layers; layer += 1) {
      const key = cache[graphNames.cacheKey(layer)] as Tensor
      const value = cache[graphNames.cacheValue(layer)] as Tensor
      const newKey = results[graphNames.newKey(layer)] as Tensor
      const newValue = results[graphNames.newValue(layer)] as Tensor
      const capacity = key.dims[3] ?? 0
      for (let head = 0; head < counts.length * kvHeads; head += 1) {
        const row = Math.floor(head / kvHeads)
        for (let token = 0; token < (counts[row] ?? 0); token += 1) {
          const at = (past[row] ?? 0) + token
          for (let d = 0; d < headDim; d += 1) {
            key.data[(head * headDim + d) * capacity + at] = newKey.data[
              (head * headDim + d) * tokens + token
            ] as number
            value.data[(head * capacity + at) * headDim + d] = newValue.data[
              (head * tokens + token) * headDim + d
            ] as number
          }
        }
      }
    }
  }
}

export function range(from: number, to: number): number[] {
  return Array.from({ length: Math.max(0, to - from) }, (_, index) => from + index)
}

function apart(results: Feeds, batch: number, tokens: number): Logits {
  const { data, dims } = results[graphNames.logits] as Tensor
  const vocab = dims.at(-1) ?? 0
  return range(0, batch).map((row) =>
    range(0, tokens).map((token) => {
      const from = (row * tokens + token) * vocab
      return (data as Float32Array).slice(from, from + vocab)
    }),
  )
}

/** Largest absolute difference; infinite where the lengths differ or a value is NaN. */
export function maxError(a: readonly Float32Array[], b: readonly Float32Array[]): number {
  if (a.length !== b.length) return Number.POSITIVE_INFINITY
  let worst = 0
  for (const [index, x] of a.entries()) {
    const y = b[index] as Float32Array
    if (x.length !== y.length) return Number.POSITIVE_INFINITY
    for (let i = 0; i < x.length; i += 1) {
      const error = Math.abs((x[i] as number) - (y[i] as number))
      if (!(error <= worst)) worst = Number.isNaN(error) ? Number.POSITIVE_INFINITY : error
    }
  }
  return worst
}
