// The one place that knows the graph: rows, tokens and slots become the feeds of a session; logits come back.
// Another runtime (WebGPU with the cache on the device) is another file with this interface.
import { graphNames, type Manifest } from '../../compiler/contract.ts'
import type { Session, Tensor } from '../../runtime/session.ts'
import { type Alone, MAX_SHARED_TOKENS } from './alone.ts'
import type { Bank } from './bank.ts'
import type { Cache, CacheRow } from './cache.ts'
import type { PrefixBlocks } from './prefix-cache.ts'

export interface Row {
  readonly length: number
}

export interface Input {
  readonly row: Row
  /** At least one; they follow the tokens that the row has seen. */
  readonly tokens: readonly number[]
  readonly slot: number
  readonly logits: 'none' | 'last' | 'all'
}

export interface Output {
  /** One vector per token whose logits were asked for. */
  readonly logits: readonly Float32Array[]
  /** False: the row's keys or values are not finite; nothing was appended to it, and it can only be closed. */
  readonly finite: boolean
}

export interface Model {
  readonly maxPositions: number
  /** Could a row of `need` tokens run if it were alone? */
  fits(need: number): boolean
  /** Can it be opened now? */
  hasRoom(need: number): boolean
  open(need: number): Row
  close(row: Row): void
  /** Undefined where no prefixes are kept. */
  readonly prefixes?: PrefixBlocks | undefined
  /** One run of the graph. Outputs in the order of the inputs. */
  forward(inputs: readonly Input[]): Promise<Output[]>
}

export interface ModelParts {
  readonly manifest: Manifest
  readonly session: Session
  readonly cache: Cache
  /** The same model without low-rank paths, for batches of base rows; without it they run zeros. */
  readonly base?: Session | undefined
  /** The same model for steps whose rows all use one adapter. */
  readonly alone?: Alone | undefined
  /** Undefined for a graph without a low-rank path: then every slot is 0. */
  readonly bank: Bank | undefined
  /** Inputs that are the same in every run. */
  readonly fixed: Readonly<Record<string, Tensor>>
}

export function createModel({ manifest, session, base, alone, cache, bank, fixed }: ModelParts): Model {
  const { layers, kvHeads, headDim, vocabSize, maxPositions } = manifest.base.architecture
  const cached = new Map<string, Record<string, Tensor>>()
  let seen = -1
  const everyLayer = Array.from({ length: layers }, (_, layer) => layer)

  function feed(inputs: readonly Input[], first: number): Record<string, Tensor> {
    const B = inputs.length
    const S = Math.max(...inputs.map(({ tokens }) => tokens.length))
    const ids = new BigInt64Array(B * S)
    const positions = new BigInt64Array(B * S)
    const lengths = new BigInt64Array(B)
    const wanted: number[] = []
    for (const [b, { row, tokens, logits }] of inputs.entries()) {
      lengths[b] = BigInt(row.length)
      for (let s = 0; s < S; s++) {
        // Padding repeats the last token and its position: a later position might not exist.
        const at = Math.min(s, tokens.length - 1)
        ids[b * S + s] = BigInt(tokens[at]!)
        positions[b * S + s] = BigInt(row.length + at)
      }
      const from = logits === 'all' ? 0 : logits === 'last' ? tokens.length - 1 : tokens.length
      for (let s = from; s < tokens.length; s++) wanted.push(b, s)
    }
    const feeds: Record<string, Tensor> = {
      [graphNames.inputIds]: { data: ids, dims: [B, S] },
      [graphNames.positionIds]: { data: positions, dims: [B, S] },
      [graphNames.pastLengths]: { data: lengths, dims: [B] },
      [graphNames.logitIndices]: { data: BigInt64Array.from(wanted, BigInt), dims: [wanted.length / 2, 2] },
    }
    return Object.assign(feeds, cacheFeeds(first, B))
  }

  /** The same objects from step to step, so that the runtime need not wrap them anew. */
  function cacheFeeds(first: number, B: number): Record<string, Tensor> {
    if (cache.generation !== seen) cached.clear()
    seen = cache.generation
    const key = `${first}+${B}`
    const known = cached.get(key)
    if (known !== undefined) return known
    const feeds: Record<string, Tensor> = {}
    for (const layer of everyLayer) {
      const { key, value } = cache.view(layer, first, B)
      feeds[graphNames.cacheKey(layer)] = { data: key, dims: [B, kvHeads, headDim, cache.capacity] }
      feeds[graphNames.cacheValue(layer)] = { data: value, dims: [B, kvHeads, cache.capacity, headDim] }
    }
    cached.set(key, feeds)
    return feeds
  }

  function run(inputs: readonly Input[], first: number): Promise<Record<string, Tensor>> {
    const feeds = feed(inputs, first)
    if (bank === undefined) return session.run(Object.assign(feeds, fixed))
    const slots = inputs.map(({ slot }) => slot)
    if (base !== undefined && slots.every((slot) => slot === 0)) return base.run(feeds)
    const only = alone && bank.only(slots)
    if (only !== undefined && feeds[graphNames.inputIds]!.data.length <= MAX_SHARED_TOKENS) {
      const factors = alone?.feeds(only)
      if (factors !== undefined) return alone!.session.run(Object.assign(feeds, factors))
    }
    return session.run(Object.assign(feeds, bank.feeds(first, slots)))
  }

  function take(input: Input, b: number, results: Record<string, Tensor>): boolean {
    const part = (name: string): Float32Array => {
      const { data, dims } = results[name]!
      const size = data.length / dims[0]!
      return (data as Float32Array).subarray(b * size, (b + 1) * size)
    }
    return cache.append(
      input.row as CacheRow,
      everyLayer.map((layer) => part(graphNames.newKey(layer))),
      everyLayer.map((layer) => part(graphNames.newValue(layer))),
      input.tokens.length,
    )
  }

  return {
    maxPositions,
    fits: (need) => cache.fits(need),
    hasRoom: (need) => cache.hasRoom(need),
    open: (need) => cache.open(need),
    close: (row) => cache.close(row as CacheRow),
    prefixes: cache.prefixes,
    async forward(inputs) {
      const first = cache.arrange(inputs.map(({ row }) => row as CacheRow))
      const ordered = inputs.toSorted((a, b) => (a.row as CacheRow).place - (b.row as CacheRow).place)
      const results = await run(ordered, first)
      const logits = results[graphNames.logits]!.data as Float32Array
      let next = 0
      const outputs = new Map<Input, Output>()
      for (const [b, input] of ordered.entries()) {
        const count = input.logits === 'all' ? input.tokens.length : input.logits === 'last' ? 1 : 0
        const vectors = Array.from({ length: count }, () => logits.subarray(next * vocabSize, ++next * vocabSize))
        outputs.set(input, { logits: vectors, finite: take(input, b, results) })
      }
      return inputs.map((input) => outputs.get(input)!)
    },
  }
}
