// Whole merges against PEFT's merge_and_unload: every kind of adapter that it can save, on each stored type.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { openBase } from '../../compiler/merge/open-base.ts'
import { readAdaptersFor } from '../../compiler/merge/read-adapters.ts'
import { type FloatTensorSource, readFloats } from '../../compiler/safetensors/stream.ts'
import { memoryFolder } from '../compiler/folders.ts'
import { DTYPES, readPeftOracle } from '../parity/peft-oracle.ts'
import { unitAt } from '../parity/reference-merge.ts'
import { mergeInMemory, readRaw } from './checkpoints.ts'

/** Next to zero a unit of the stored type is smaller than what fp32 loses while summing. */
const NOISE = 1e-6
const F32_TOLERANCE = 1e-5

const oracle = await readPeftOracle()
const BASES = join(import.meta.dirname, '../parity/oracle/peft/base')

describe.each(DTYPES)('on a base in %s', (dtype) => {
  it.each([...oracle.cases])('%s', async (name, model) => {
    const files = { 'model.safetensors': new Uint8Array(readFileSync(join(BASES, `${model}-${dtype}.safetensors`))) }
    const base = await openBase(memoryFolder('base', files))
    const adapters = await readAdaptersFor(base, [{ name, folder: memoryFolder(name, await oracle.adapter(name)) }])
    const { files: written } = await mergeInMemory(files, adapters)
    const after = await readRaw(written.get('model.safetensors')!)
    const theirs = await oracle.merged(name, dtype)
    const exact = await oracle.algebra(name, dtype)
    for (const [tensor, found] of theirs) {
      const ours = await readFloats(after.get(tensor) as FloatTensorSource)
      expect(ours.length).toBe(found.length)
      const formula = exact.get(tensor)
      ours.forEach((value, i) => {
        // Where PEFT rounds twice, the formula itself is the measure.
        const expected = formula?.[i] ?? found[i]!
        const unit = Math.max(unitAt(value, dtype), unitAt(expected, dtype))
        const bound = dtype === 'F32' ? F32_TOLERANCE : unit * (formula === undefined ? 1 : 0.51) + NOISE
        if (!(Math.abs(value - expected) <= bound)) expect.fail(`${tensor}[${i}]: ${value}, not ${expected}`)
      })
    }
    const untouched = [...base.tensors.values()].filter((tensor) => !theirs.has(tensor.name))
    for (const tensor of untouched) {
      const twin = after.get(tensor.name)!
      expect(await twin.source.read(twin.offset, twin.bytes)).toEqual(
        await tensor.source.read(tensor.offset, tensor.bytes),
      )
    }
  })
})
