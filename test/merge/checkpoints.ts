// Checkpoints of a few tensors in memory, bit for bit as a test wants them, and adapters as the reader would give them.
import type { AdapterChanges, Change } from '../../compiler/adapter/change.ts'
import type { OutFolder } from '../../compiler/host.ts'
import { inlineLanes } from '../../compiler/merge/inline-lanes.ts'
import type { OpenLanes } from '../../compiler/merge/matrix.ts'
import { type MergeReport, mergeCheckpoint } from '../../compiler/merge/merge-checkpoint.ts'
import { openBase } from '../../compiler/merge/open-base.ts'
import type { Dtype, FloatDtype } from '../../compiler/safetensors/dtypes.ts'
import { readHeader, type StoredTensor } from '../../compiler/safetensors/read.ts'
import { type Files, memoryFolder, memoryOut, memorySource } from '../compiler/folders.ts'

export interface RawTensor {
  readonly dtype: Dtype
  readonly shape: readonly number[]
  readonly bytes: Uint8Array
}

/** In the order given, which need not be sorted; with an odd amount of padding, as other writers leave. */
export function encodeRaw(tensors: Readonly<Record<string, RawTensor>>, metadata?: Readonly<Record<string, string>>) {
  let end = 0
  const entries = Object.entries(tensors).map(([name, { dtype, shape, bytes }]) => {
    const begin = end
    end += bytes.length
    return [name, { dtype, shape, data_offsets: [begin, end] }] as const
  })
  const json = JSON.stringify({ ...(metadata && { __metadata__: metadata }), ...Object.fromEntries(entries) })
  const header = new TextEncoder().encode(`${json}   `)
  const length = new Uint8Array(8)
  new DataView(length.buffer).setBigUint64(0, BigInt(header.length), true)
  return new Uint8Array(Buffer.concat([length, header, ...Object.values(tensors).map(({ bytes }) => bytes)]))
}

export async function readRaw(file: Uint8Array): Promise<ReadonlyMap<string, StoredTensor>> {
  return (await readHeader(memorySource('file', file))).tensors
}

/** Random weights of ordinary size: exponents of 2⁻⁷ to 2⁻⁴. */
export function randomTensor(dtype: FloatDtype, shape: readonly number[], random: () => number): RawTensor {
  const count = shape.reduce((product, size) => product * size, 1)
  if (dtype === 'F32') {
    const values = Float32Array.from({ length: count }, () => (random() - 0.5) / 8)
    return { dtype, shape, bytes: new Uint8Array(values.buffer) }
  }
  const [bits, lowest] = dtype === 'F16' ? [10, 8] : [7, 120]
  const words = Uint16Array.from({ length: count }, () => {
    const sign = random() < 0.5 ? 0x8000 : 0
    return sign | ((lowest + Math.floor(random() * 4)) << bits) | Math.floor(random() * 2 ** bits)
  })
  return { dtype, shape, bytes: new Uint8Array(words.buffer) }
}

export function lowRank(
  tensor: string,
  size: { r: number; in: number; out: number },
  random: () => number,
  more: { scaling?: number; transposed?: boolean; magnitude?: Float32Array } = {},
): Extract<Change, { kind: 'low-rank' }> {
  const values = (length: number) => Float32Array.from({ length }, () => random() - 0.5)
  const A = values(size.r * size.in)
  const B = values(size.out * size.r)
  return { kind: 'low-rank', tensor, ...size, A, B, scaling: 2.4, transposed: false, sources: [`${tensor}.A`], ...more }
}

export function adapter(name: string, weight: number, changes: readonly Change[], untied: readonly string[] = []) {
  return { name, weight, changes, loraAlpha: 8, useRslora: false, untied } satisfies AdapterChanges
}

export interface Merged {
  readonly files: ReadonlyMap<string, Uint8Array>
  readonly report: MergeReport
}

export async function mergeInMemory(
  files: Files,
  adapters: readonly AdapterChanges[],
  lanes: OpenLanes = inlineLanes,
  out: OutFolder & { readonly files: ReadonlyMap<string, Uint8Array> } = memoryOut(),
): Promise<Merged> {
  const base = await openBase(memoryFolder('base', files))
  try {
    return { report: await mergeCheckpoint(base, adapters, Object.keys(files), out, lanes), files: out.files }
  } finally {
    await base.close()
  }
}
