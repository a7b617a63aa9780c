// The exports and adapters that test/parity/surgery-oracle.py stored, surgery on them, and runs of what it gives.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { gunzipSync } from 'node:zlib'
import type { Folder } from '../../compiler/host.ts'
import { readHeader } from '../../compiler/safetensors/read.ts'
import { type FloatTensorSource, readFloats } from '../../compiler/safetensors/stream.ts'
import { operate, type SurgeryReport } from '../../compiler/surgery/operate.ts'
import { makeFolder, nodeHost, openFolder } from '../../runtime/disk.ts'
import { openSession, type Tensor } from '../../runtime/node.ts'
import { type Files, memoryFolder, memoryOut, memorySource } from '../compiler/folders.ts'

const ORACLE = join(import.meta.dirname, '../parity/oracle/surgery')

export const oracle: {
  ids: number[][]
  x: number[]
  base: Record<string, number[]>
  peft: Record<string, number[]>
} = JSON.parse(readFileSync(join(ORACLE, 'oracle.json'), 'utf8'))

export const exported = (name: string) => new Uint8Array(gunzipSync(readFileSync(join(ORACLE, `${name}.gz`))))
export const adapterFolder = (name = 'adapter'): Folder => openFolder(join(ORACLE, name))

export interface Made {
  readonly report: SurgeryReport
  readonly files: ReadonlyMap<string, Uint8Array>
}

export async function surgery(
  files: Files,
  target: SurgeryReport['target'],
  adapter: Folder = adapterFolder(),
  names: readonly string[] = Object.keys(files).filter((name) => name.endsWith('.onnx')),
): Promise<Made> {
  const out = memoryOut()
  const adapters = [{ name: 'tuned', folder: adapter }]
  const report = await operate({ base: memoryFolder('export', files), files: names, adapters, target }, out, nodeHost)
  return { report, files: out.files }
}

export const idFeeds = (): Record<string, Tensor> => ({
  input_ids: { data: BigInt64Array.from(oracle.ids.flat(), BigInt), dims: [2, 5] },
})

/** The first output of `file`. */
export async function run(
  files: ReadonlyMap<string, Uint8Array>,
  file: string,
  feeds: Readonly<Record<string, Tensor>>,
): Promise<Float32Array> {
  const folder = mkdtempSync(join(tmpdir(), 'sidepath-surgery-'))
  for (const [path, bytes] of files) {
    await makeFolder(dirname(join(folder, path)))
    writeFileSync(join(folder, path), bytes)
  }
  const session = await openSession(join(folder, file), { threads: 1 })
  try {
    const [output] = Object.values(await session.run(feeds))
    return output?.data as Float32Array
  } finally {
    await session.release()
    rmSync(folder, { recursive: true })
  }
}

/** Feeds of a routed graph: slot 0 zeros, slot 1 the adapter, slot 2 NaN; ranks padded with zeros. */
export async function routedFeeds({ report, files }: Made, slots: readonly number[]): Promise<Record<string, Tensor>> {
  const rank = report.adapters[0]?.r ?? 0
  const feeds: Record<string, Tensor> = {
    adapter_slots: { data: BigInt64Array.from(slots, BigInt), dims: [slots.length] },
  }
  for (const { module, in: inSize, out, r, A, B } of await factors({ report, files })) {
    const bankA = new Float32Array(3 * inSize * rank)
    const bankB = new Float32Array(3 * rank * out)
    for (let i = 0; i < inSize; i += 1) bankA.set(A.subarray(i * r, (i + 1) * r), (inSize + i) * rank)
    bankB.set(B, rank * out)
    bankA.fill(Number.NaN, 2 * inSize * rank)
    bankB.fill(Number.NaN, 2 * rank * out)
    feeds[`bank.${module}.lora_A`] = { data: bankA, dims: [3, inSize, rank] }
    feeds[`bank.${module}.lora_B`] = { data: bankB, dims: [3, rank, out] }
  }
  return feeds
}

export async function stackedFeeds(made: Made): Promise<Record<string, Tensor>> {
  const feeds: Record<string, Tensor> = {}
  for (const { module, in: inSize, out, r, A, B } of await factors(made)) {
    feeds[`${module}.lora_A.weight`] = { data: A, dims: [inSize, r] }
    feeds[`${module}.lora_B.weight`] = { data: B, dims: [r, out] }
  }
  return feeds
}

async function factors({ report, files }: Made) {
  const path = report.adapters[0]?.file ?? ''
  const { tensors } = await readHeader(memorySource(path, files.get(path) ?? new Uint8Array()))
  const values = (name: string) => readFloats(tensors.get(name) as FloatTensorSource)
  return Promise.all(
    report.linears.map(async ({ module, ...sizes }) => {
      const [A, B] = await Promise.all([values(`${module}.lora_A`), values(`${module}.lora_B`)])
      return { module, ...sizes, r: A.length / sizes.in, A, B }
    }),
  )
}

export function distance(got: Float32Array, expected: readonly number[] | Float32Array): number {
  if (got.length !== expected.length) return Number.POSITIVE_INFINITY
  return got.reduce((most, value, index) => Math.max(most, Math.abs(value - (expected[index] as number))), 0)
}
