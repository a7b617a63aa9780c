// The Model interface on a device that keeps base, bank and cache: token ids and slots go in, logits come out.
import { graphNames, type Manifest } from '../../compiler/contract.ts'
import type { Tensor } from '../../runtime/session.ts'
import type { DeviceOutput, DeviceSession, DeviceTensor } from '../../runtime/web.ts'
import type { CacheRow } from './cache.ts'
import type { DeviceBank } from './device-bank.ts'
import type { DeviceCache } from './device-cache.ts'
import type { Input, Model, Output } from './model.ts'

export interface DeviceModelParts {
  readonly manifest: Manifest
  readonly session: DeviceSession
  readonly cache: DeviceCache
  /** Undefined for a graph without a low-rank path: then every slot is 0. */
  readonly bank: DeviceBank | undefined
  /** Inputs that are the same in every run. */
  readonly fixed: Readonly<Record<string, DeviceTensor>>
}

const FLOAT = Float32Array.BYTES_PER_ELEMENT

export function createDeviceModel({ manifest, session, cache, bank, fixed }: DeviceModelParts): Model {
  const { device } = session
  const { vocabSize, maxPositions } = manifest.base.architecture
  let landing: GPUBuffer | undefined

  function lowRank(inputs: readonly Input[]): Readonly<Record<string, DeviceTensor>> {
    if (bank === undefined) return fixed
    return bank.feeds(inputs.map(({ slot }) => slot))
  }

  /** Reads `bytes` of a step's results, in one transfer. The logits and the flags would else be two. */
  async function fetch(parts: readonly (readonly [GPUBuffer, number])[], encoder: GPUCommandEncoder) {
    const bytes = parts.reduce((sum, [, size]) => sum + size, 0)
    if (landing === undefined || landing.size < bytes) {
      landing?.destroy()
      landing = device.createBuffer({ size: bytes, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST })
    }
    let at = 0
    for (const [buffer, size] of parts) {
      encoder.copyBufferToBuffer(buffer, 0, landing, at, size)
      at += size
    }
    device.queue.submit([encoder.finish()])
    await landing.mapAsync(GPUMapMode.READ, 0, bytes)
    const copy = landing.getMappedRange(0, bytes).slice(0)
    landing.unmap()
    return copy
  }

  return {
    maxPositions,
    fits: (need) => cache.fits(need),
    hasRoom: (need) => cache.hasRoom(need),
    open: (need) => cache.open(need),
    close: (row) => cache.close(row as CacheRow),
    async forward(inputs) {
      const rows = inputs.map(({ row }) => row as CacheRow)
      cache.prepare(
        rows,
        inputs.map(({ tokens }) => tokens.length),
      )
      const ordered = inputs.toSorted((a, b) => (a.row as CacheRow).place - (b.row as CacheRow).place)
      const counts = ordered.map(({ tokens }) => tokens.length)
      const { feeds, wanted, width } = batchOf(ordered)
      const results = await session.run({ ...feeds, ...cache.feeds(inputs.length), ...lowRank(ordered) })
      const encoder = device.createCommandEncoder()
      const appended = cache.append(encoder, results, counts, width)
      const flagBytes = inputs.length * Uint32Array.BYTES_PER_ELEMENT
      const logitBytes = wanted * vocabSize * FLOAT
      const fetched = await fetch(
        [
          [appended.broken, flagBytes],
          [results[graphNames.logits]!.buffer, logitBytes],
        ],
        encoder,
      ).finally(() => {
        appended.destroy()
        release(results)
      })
      const broken = new Uint32Array(fetched, 0, inputs.length)
      const logits = new Float32Array(fetched, flagBytes)
      let next = 0
      const outputs = new Map<Input, Output>()
      for (const [b, input] of ordered.entries()) {
        const vectors = Array.from({ length: wantedOf(input) }, () =>
          logits.subarray(next * vocabSize, ++next * vocabSize),
        )
        const finite = broken[b] === 0
        if (finite) cache.advance(input.row as CacheRow, input.tokens.length)
        outputs.set(input, { logits: vectors, finite })
      }
      return inputs.map((input) => outputs.get(input)!)
    },
  }
}

/** What a step brings from the host. Rows of fewer tokens repeat their last one, which is not appended. */
function batchOf(inputs: readonly Input[]) {
  const B = inputs.length
  const S = Math.max(...inputs.map(({ tokens }) => tokens.length))
  const ids = new BigInt64Array(B * S)
  const positions = new BigInt64Array(B * S)
  const indices: number[] = []
  for (const [b, input] of inputs.entries()) {
    const { row, tokens } = input
    for (let s = 0; s < S; s++) {
      const at = Math.min(s, tokens.length - 1)
      ids[b * S + s] = BigInt(tokens[at]!)
      positions[b * S + s] = BigInt(row.length + at)
    }
    for (let s = tokens.length - wantedOf(input); s < tokens.length; s++) indices.push(b, s)
  }
  const wanted = indices.length / 2
  // Kernels for nothing at all are not to be had, so one vector is computed that nobody reads.
  if (wanted === 0) indices.push(0, 0)
  const feeds: Record<string, Tensor> = {
    [graphNames.inputIds]: { data: ids, dims: [B, S] },
    [graphNames.positionIds]: { data: positions, dims: [B, S] },
    [graphNames.pastLengths]: { data: BigInt64Array.from(inputs, ({ row }) => BigInt(row.length)), dims: [B] },
    [graphNames.logitIndices]: { data: BigInt64Array.from(indices, BigInt), dims: [indices.length / 2, 2] },
  }
  return { feeds, wanted, width: S }
}

function wantedOf({ logits, tokens }: Input): number {
  return logits === 'all' ? tokens.length : logits === 'last' ? 1 : 0
}

function release(results: Readonly<Record<string, DeviceOutput>>): void {
  for (const output of Object.values(results)) output.dispose()
}
