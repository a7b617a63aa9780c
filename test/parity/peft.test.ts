// Every kind of LoRA that PEFT can save, read and merged against PEFT's own merge_and_unload, on fp32, fp16 and bf16.
import { beforeAll, describe, expect, it } from 'vitest'
import type { AdapterChanges, Change } from '../../compiler/adapter/change.ts'
import { readChanges } from '../../compiler/adapter/read-changes.ts'
import { type FloatDtype, isFloatDtype } from '../../compiler/safetensors/dtypes.ts'
import { readHeader } from '../../compiler/safetensors/read.ts'
import { type FloatTensorSource, readFloats } from '../../compiler/safetensors/stream.ts'
import { memoryFolder, memorySource } from '../compiler/folders.ts'
import { DTYPES, type PeftOracle, readPeftOracle } from './peft-oracle.ts'
import { mergeReference, roundTo, unitAt } from './reference-merge.ts'

/** PEFT sums in fp32. Next to zero, where a unit of the stored type is smaller still, that is what differs. */
const NOISE = 1e-6
const F32_TOLERANCE = 1e-5

const oracle: PeftOracle = await readPeftOracle()
const names = [...oracle.cases.keys()]

async function read(name: string, dtype: FloatDtype): Promise<AdapterChanges> {
  const base = await oracle.base(oracle.cases.get(name)!, dtype)
  return readChanges({ name, folder: memoryFolder(name, await oracle.adapter(name)) }, base)
}

describe.each(DTYPES)('on a base in %s', (dtype) => {
  it.each(names)('%s is what PEFT merges', async (name) => {
    const base = await oracle.base(oracle.cases.get(name)!, dtype)
    const changes = Map.groupBy((await read(name, dtype)).changes, ({ tensor }) => tensor)
    const theirs = await oracle.merged(name, dtype)
    const exact = await oracle.algebra(name, dtype)
    expect([...changes.keys()].sort()).toEqual([...theirs.keys()].sort())
    for (const [tensor, found] of theirs) {
      const stored = base.get(tensor) as FloatTensorSource
      const before = Float64Array.from(await readFloats(stored))
      const sums = await mergeReference(before, stored.shape.at(-1) ?? 1, changes.get(tensor) as Change[])
      const formula = exact.get(tensor)
      if (formula === undefined) expectSame(sums, found, dtype, tensor)
      else expectTwoRoundings(sums, found, formula, before, dtype, tensor)
    }
  })
})

/** Within 1e-5 of PEFT, or one unit of the stored type. */
function expectSame(sums: Float64Array, theirs: Float32Array, dtype: FloatDtype, tensor: string): void {
  expect(sums.length, tensor).toBe(theirs.length)
  theirs.forEach((value, i) => {
    const ours = roundTo(sums[i]!, dtype)
    const unit = Math.max(unitAt(value, dtype), unitAt(ours, dtype))
    const bound = dtype === 'F32' ? F32_TOLERANCE : unit + NOISE
    if (!(Math.abs(ours - value) <= bound)) expect.fail(`${tensor}[${i}]: ${ours}, PEFT has ${value}`)
  })
}

/**
 * Where PEFT rounds twice. Embeddings and MiCA: it rounds the delta to the stored type and then the sum. A delta on
 * weights that the adapter saved: it rounds those first. Where the two cancel, an error of half a unit of the large
 * operand is many units of the small sum. We round the sum alone, so we are half a unit from the formula, and PEFT is
 * at most one unit of the largest operand from it.
 */
function expectTwoRoundings(
  sums: Float64Array,
  theirs: Float32Array,
  formula: Float64Array,
  before: Float64Array,
  dtype: FloatDtype,
  tensor: string,
): void {
  let largest = 0
  for (const [i, value] of formula.entries()) largest = Math.max(largest, Math.abs(value) + Math.abs(before[i]!))
  let worst = 0
  formula.forEach((value, i) => {
    const unit = unitAt(value, dtype)
    const ours = Math.abs(roundTo(sums[i]!, dtype) - value)
    if (!(ours <= unit / 2 + NOISE * unit)) expect.fail(`${tensor}[${i}]: ${ours / unit} units from ${value}`)
    const peft = Math.abs(theirs[i]! - value)
    if (!(peft <= unitAt(largest, dtype))) expect.fail(`${tensor}[${i}]: PEFT is ${peft} from ${value}`)
    worst = Math.max(worst, (peft - NOISE) / unit)
  })
  expect(worst, `${tensor}: PEFT has come to round once, so the case can be compared with it`).toBeGreaterThan(1)
}

describe('each tensor of the file', () => {
  it.each(names)('of %s is a source of exactly one change', async (name) => {
    const files = await oracle.adapter(name)
    const { tensors } = await readHeader(memorySource(name, files['adapter_model.safetensors']!))
    const { changes } = await read(name, 'F32')
    expect(changes.flatMap(({ sources }) => sources).sort()).toEqual([...tensors.keys()].sort())
  })
})

describe('what a merge is told beside the changes', () => {
  let untied: Map<string, readonly string[]>
  beforeAll(async () => {
    untied = new Map()
    for (const name of names) untied.set(name, (await read(name, 'F32')).untied)
  })

  it('names the token embeddings that the adapter changes apart from a head', () => {
    expect(untied.get('embedding-alone')).toEqual(['model.embed_tokens.weight'])
    expect(untied.get('conv1d-embedding')).toEqual(['transformer.wte.weight'])
    expect(untied.get('bert-embedding')).toEqual(['bert.embeddings.word_embeddings.weight'])
  })

  it('names none for rows of tokens, which PEFT ties to the head, nor for linears', () => {
    for (const name of ['tokens-list', 'tokens-dict', 'plain', 'head', 'conv1d']) expect(untied.get(name)).toEqual([])
  })

  it('gives changes of one tensor in the order in which they apply', async () => {
    const { changes } = await read('bert-lora-bias-all', 'F16')
    const kinds = Map.groupBy(changes, ({ tensor }) => tensor)
    const of = (tensor: string) =>
      kinds.get(`bert.encoder.layer.0.attention.self.value.${tensor}`)?.map(({ kind }) => kind)
    expect(of('bias')).toEqual(['replace', 'add'])
    expect(of('weight')).toEqual(['low-rank'])
    for (const { tensor, kind } of changes) {
      const stored = (await oracle.base('bert', 'F16')).get(tensor)
      expect(kind === 'replace' || isFloatDtype(stored!.dtype)).toBe(true)
    }
  })
})
