// Reads what test/parity/peft-oracle.py stored: bases, adapter folders, what PEFT merged, and the formulas in double.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { FloatDtype } from '../../compiler/safetensors/dtypes.ts'
import { readHeader, type StoredTensor } from '../../compiler/safetensors/read.ts'
import { type FloatTensorSource, readFloats } from '../../compiler/safetensors/stream.ts'
import { memorySource } from '../compiler/folders.ts'

const FOLDER = join(import.meta.dirname, 'oracle/peft')

export const DTYPES = ['F32', 'F16', 'BF16'] as const
type Tensors = ReadonlyMap<string, StoredTensor>

export interface PeftOracle {
  /** Case → model. */
  readonly cases: ReadonlyMap<string, string>
  base(model: string, dtype: FloatDtype): Promise<Tensors>
  adapter(name: string): Promise<Record<string, Uint8Array>>
  /** Tensor name → what PEFT made of it. */
  merged(name: string, dtype: FloatDtype): Promise<ReadonlyMap<string, Float32Array>>
  /** Tensor name → the formula; only where PEFT is further than one unit from it. */
  algebra(name: string, dtype: FloatDtype): Promise<ReadonlyMap<string, Float64Array>>
}

export async function readPeftOracle(): Promise<PeftOracle> {
  const { cases } = JSON.parse(readFileSync(join(FOLDER, 'oracle.json'), 'utf8'))
  const [adapters, results, algebra] = await Promise.all(['adapters', 'results', 'algebra'].map(open))
  return {
    cases: new Map(
      Object.entries(cases as Record<string, { model: string }>).map(([name, { model }]) => [name, model]),
    ),
    base: (model, dtype) => open(`base/${model}-${dtype}`),
    async adapter(name) {
      const found = await under(adapters!, `${name}/`, (tensor) => tensor.source.read(tensor.offset, tensor.bytes))
      return Object.fromEntries(found)
    },
    merged: (name, dtype) => under(results!, `${name}/${dtype}/`, (tensor) => readFloats(tensor as FloatTensorSource)),
    algebra: (name, dtype) =>
      under(algebra!, `${name}/${dtype}/`, async (tensor) => {
        const bytes = await tensor.source.read(tensor.offset, tensor.bytes)
        return new Float64Array(bytes.slice().buffer)
      }),
  }
}

async function open(name: string): Promise<Tensors> {
  const bytes = new Uint8Array(readFileSync(join(FOLDER, `${name}.safetensors`)))
  return (await readHeader(memorySource(name, bytes))).tensors
}

async function under<T>(
  tensors: Tensors,
  prefix: string,
  read: (tensor: StoredTensor) => Promise<T>,
): Promise<Map<string, T>> {
  const found = new Map<string, T>()
  for (const [name, tensor] of tensors)
    if (name.startsWith(prefix)) found.set(name.slice(prefix.length), await read(tensor))
  return found
}
