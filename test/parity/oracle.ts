// Reads what test/parity/oracle.py stored: the numbers of transformers and PEFT.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { readHeader } from '../../compiler/safetensors/read.ts'
import { type FloatTensorSource, readFloats } from '../../compiler/safetensors/stream.ts'
import { openFile } from '../../runtime/disk.ts'

const FOLDER = join(import.meta.dirname, 'oracle')

export interface Oracle {
  /** What oracle.py wrote beside the tensors. */
  readonly about: Readonly<Record<string, unknown>>
  readonly prompts: readonly (readonly number[])[]
  /** Rows of the tensor: [positions][vocab]. */
  rows(name: string): readonly Float32Array[]
}

export async function readOracle(name: string): Promise<Oracle> {
  const about = JSON.parse(readFileSync(join(FOLDER, `${name}.json`), 'utf8'))
  const file = await openFile(join(FOLDER, `${name}.safetensors`))
  const { tensors } = await readHeader(file)
  const rows = new Map<string, Float32Array[]>()
  for (const [key, tensor] of tensors) {
    const values = await readFloats(tensor as FloatTensorSource)
    const columns = tensor.shape.at(-1) ?? 0
    const count = values.length / columns
    rows.set(
      key,
      Array.from({ length: count }, (_, row) => values.subarray(row * columns, (row + 1) * columns)),
    )
  }
  await file.close()
  return {
    about,
    prompts: about.prompts.map(({ ids }: { ids: number[] }) => ids),
    rows(key) {
      const found = rows.get(key)
      if (found === undefined) throw new Error(`the oracle ${name} has no ${key}`)
      return found
    },
  }
}
