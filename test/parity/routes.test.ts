// One PEFT adapter on a real model over every route to an artifact: the logits of transformers + PEFT on the same weights
// (oracle/smollm2/adapter-oracle.py). The export is the `model.onnx` that the compiler writes from the GGUF without
// adapters: the ecosystem's form, in floats and in 4 bits. Needs the model, as smollm2.test.ts does.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { compile } from '../../compiler/compile.ts'
import type { Linear, Manifest } from '../../compiler/contract.ts'
import { openGguf } from '../../compiler/gguf/folder.ts'
import type { Folder } from '../../compiler/host.ts'
import type { QuantiseOptions } from '../../compiler/quantise/spec.ts'
import { readHeader } from '../../compiler/safetensors/read.ts'
import { CHUNK_BYTES, type FloatTensorSource, readFloats } from '../../compiler/safetensors/stream.ts'
import { operate } from '../../compiler/surgery/operate.ts'
import { nodeHost, openFile, openFolder, stageFolder } from '../../runtime/disk.ts'
import { openSession, type Tensor } from '../../runtime/node.ts'
import { findModel } from '../../scripts/models.ts'

const ORACLE = join(import.meta.dirname, 'oracle/smollm2')
const oracle: { stride: number; prompts: number[][]; base: number[][]; peft: number[][] } = JSON.parse(
  readFileSync(join(ORACLE, 'adapter.json'), 'utf8'),
)
const TIMEOUT_MS = 120_000
const RANK = 2
const KV_HEADS = 3
const HEAD = 64
/** Logits have a deviation of 6. Floats: sums in another order, thirty layers deep. */
const FLOAT_BOUND = 2e-3
/** Offsets of the blocks as halves, the embedding in eight bits: what the base itself is off by, 0.35. */
const INT4_BOUND = 0.6
const INT4: QuantiseOptions = { method: 'int4', block: 32, grid: 'affine', rounding: 'rtn', keep: [], eight: [] }

const path = findModel('smollm2')
if (path === undefined) {
  process.stderr.write(
    'SKIPPED: one adapter over all routes: the model is not here; run node scripts/fetch-models.ts smollm2\n',
  )
}

describe.skipIf(path === undefined)('one adapter on SmolLM2-135M-Instruct', () => {
  let scratch: string
  let gguf: Folder
  const adapters = () => [{ name: 'tuned', folder: openFolder(join(ORACLE, 'adapter')) }]

  beforeAll(async () => {
    scratch = mkdtempSync(join(tmpdir(), 'sidepath-routes-'))
    gguf = await openGguf(() => openFile(path!))
    const checkpoint = await stageFolder(join(scratch, 'checkpoint'))
    for (const file of ['config.json', 'model.safetensors']) await copy(gguf, file, checkpoint)
    await checkpoint.commit()
  }, TIMEOUT_MS)

  afterAll(() => rmSync(scratch, { recursive: true, force: true }))

  it.each([
    ['checkpoint', 'routed'],
    ['GGUF', 'routed'],
    ['checkpoint', 'merged'],
  ] as const)(
    '%s → %s gives PEFT',
    async (from, target) => {
      const base = from === 'GGUF' ? gguf : openFolder(join(scratch, 'checkpoint'))
      const out = await into(`${from}-${target}`, async (folder) => {
        const { manifest } = await compile({ base, adapters: adapters(), target }, folder, nodeHost)
        return { linears: manifest.bank, file: manifest.adapters[0]?.file }
      })
      const got = await logits(out.folder, out.made)
      report(`${from} → ${target}`, got)
      expect(off(got, oracle.peft)).toBeLessThan(FLOAT_BOUND)
    },
    TIMEOUT_MS,
  )

  it.each([
    ['floats', undefined, FLOAT_BOUND],
    ['4 bits', INT4, INT4_BOUND],
  ] as const)(
    'exported ONNX in %s → surgery gives PEFT, and the base for slot 0',
    async (form, quantise, bound) => {
      const input = { base: gguf, adapters: [], target: 'merged' as const, ...(quantise && { quantise }) }
      const exported = await into(`export ${form}`, async (folder) => compile(input, folder, nodeHost))
      const plain = await logits(exported.folder, { linears: [], file: undefined })
      const out = await into(`surgery ${form}`, async (folder) => {
        const base = openFolder(exported.folder)
        const order = { base, files: ['model.onnx'], adapters: adapters(), target: 'routed' as const }
        const { linears, adapters: entries, coverage } = await operate(order, folder, nodeHost)
        expect(coverage).toHaveLength(60)
        return { linears, file: entries[0]?.file }
      })
      const [got, base] = [await logits(out.folder, out.made), await logits(out.folder, out.made, 0)]
      report(`export, ${form}, base`, plain, oracle.base)
      report(`export, ${form} → surgery`, got)
      expect(
        off(
          base,
          plain.map((values) => [...values]),
        ),
      ).toBe(0)
      expect(off(plain, oracle.base)).toBeLessThan(bound)
      expect(off(got, oracle.peft)).toBeLessThan(bound)
      // What the adapter changes is what PEFT says it changes, nearer than the base is to PEFT.
      expect(off(got, oracle.peft)).toBeLessThan(off(plain, oracle.peft))
    },
    TIMEOUT_MS,
  )

  async function into<T>(name: string, make: (folder: Awaited<ReturnType<typeof stageFolder>>) => Promise<T>) {
    const folder = join(scratch, name)
    const staged = await stageFolder(folder)
    const made = await make(staged)
    await staged.commit()
    return { folder, made }
  }
})

async function copy(from: Folder, path: string, to: Awaited<ReturnType<typeof stageFolder>>): Promise<void> {
  const source = (await from.open(path))!
  const sink = await to.create(path)
  for (let at = 0; at < source.size; at += CHUNK_BYTES) {
    await sink.write(await source.read(at, Math.min(CHUNK_BYTES, source.size - at)))
  }
  await sink.close()
  await source.close()
}

/** Every `stride`th logit of every position, prompt by prompt. */
async function logits(
  folder: string,
  { linears, file }: { linears: readonly Linear[] | Manifest['bank']; file: string | undefined },
  slot = 1,
): Promise<Float32Array[]> {
  const session = await openSession(join(folder, 'model.onnx'))
  try {
    const bank = file === undefined ? {} : await banks(folder, file, linears)
    const results: Float32Array[] = []
    for (const ids of oracle.prompts) {
      const long = (values: readonly number[], dims: readonly number[]) => {
        return { data: BigInt64Array.from(values, BigInt), dims }
      }
      const shape = [1, ids.length]
      const given: Record<string, Tensor> = {
        ...bank,
        input_ids: long(ids, shape),
        attention_mask: long(
          ids.map(() => 1),
          shape,
        ),
        position_ids: long([...ids.keys()], shape),
        adapter_slots: long([slot], [1]),
      }
      const empty = { data: new Float32Array(), dims: [1, KV_HEADS, 0, HEAD] }
      const feeds = Object.fromEntries(session.inputs.map((name) => [name, given[name] ?? empty]))
      const { logits: all } = await session.run(feeds, ['logits'])
      results.push((all!.data as Float32Array).filter((_, index) => (index % 49_152) % oracle.stride === 0))
    }
    return results
  } finally {
    await session.release()
  }
}

/** Slot 0 zeros, slot 1 the adapter. */
async function banks(folder: string, file: string, linears: readonly Linear[]): Promise<Record<string, Tensor>> {
  const source = (await openFolder(folder).open(file))!
  const { tensors } = await readHeader(source)
  const feeds: Record<string, Tensor> = {}
  for (const { module, in: inSize, out } of linears) {
    for (const [part, size] of [
      ['lora_A', inSize],
      ['lora_B', out],
    ] as const) {
      const data = new Float32Array(2 * size * RANK)
      const tensor = tensors.get(`${module}.${part}`)
      if (tensor !== undefined) data.set(await readFloats(tensor as FloatTensorSource), size * RANK)
      feeds[`bank.${module}.${part}`] = { data, dims: part === 'lora_A' ? [2, size, RANK] : [2, RANK, size] }
    }
  }
  await source.close()
  return feeds
}

function off(got: readonly Float32Array[], wanted: readonly (readonly number[])[]): number {
  expect(got.map(({ length }) => length)).toEqual(wanted.map(({ length }) => length))
  return Math.max(...got.flatMap((values, i) => [...values].map((value, at) => Math.abs(value - wanted[i]![at]!))))
}

function report(route: string, got: readonly Float32Array[], wanted = oracle.peft): void {
  process.stderr.write(`${route}: largest difference of a logit ${off(got, wanted).toPrecision(3)}\n`)
}
