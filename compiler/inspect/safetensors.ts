// A safetensors file, or a compiled adapter in one.
import { ADAPTER_METADATA, ADAPTER_SCHEMA } from '../adapter/encode.ts'
import type { ByteSource } from '../host.ts'
import { readHeader, type StoredTensor } from '../safetensors/read.ts'
import type { Inspection, Row } from './inspection.ts'

export async function inspectSafetensors(file: ByteSource): Promise<Inspection> {
  const { tensors, metadata } = await readHeader(file)
  const all = [...tensors.values()]
  const isCompiled = metadata.get(ADAPTER_METADATA.schema) === ADAPTER_SCHEMA
  const own = new Set<string>(isCompiled ? Object.values(ADAPTER_METADATA) : [])
  const compiled = {
    adapter: metadata.get(ADAPTER_METADATA.name) ?? null,
    base: metadata.get(ADAPTER_METADATA.base) ?? null,
  }
  return {
    kind: isCompiled ? 'compiled-adapter' : 'safetensors',
    name: file.name,
    facts: { ...(isCompiled ? compiled : {}), ...totals(all) },
    tables: {
      ...(isCompiled ? { modules: modulesOf(all, { A: '.lora_A', B: '.lora_B' }) } : {}),
      tensors: rowsOf(all),
      metadata: [...metadata].filter(([key]) => !own.has(key)).map(([key, value]) => ({ key, value: cut(value) })),
    },
    notes: [],
  }
}

/** Longest metadata value that is repeated; some tools store whole training logs. */
const MAX_VALUE_CHARS = 200

function cut(text: string): string {
  return text.length > MAX_VALUE_CHARS ? `${text.slice(0, MAX_VALUE_CHARS)}…` : text
}

export function totals(tensors: readonly StoredTensor[]): Row {
  const count = ({ shape }: StoredTensor) => shape.reduce((product, size) => product * size, 1)
  const dtypes = new Map<string, number>()
  for (const { dtype } of tensors) dtypes.set(dtype, (dtypes.get(dtype) ?? 0) + 1)
  return {
    tensors: tensors.length,
    parameters: tensors.reduce((sum, tensor) => sum + count(tensor), 0),
    bytes: tensors.reduce((sum, { bytes }) => sum + bytes, 0),
    dtypes: [...dtypes].map(([dtype, times]) => `${dtype} × ${times}`),
  }
}

export function rowsOf(tensors: readonly StoredTensor[]): Row[] {
  return tensors.map(({ name, dtype, shape, bytes }) => ({ name, dtype, shape, bytes }))
}

/** Pairs A [in, r] and B [r, out] by the ends of their names. */
export function modulesOf(
  tensors: readonly { readonly name: string; readonly shape: readonly number[] }[],
  ends: { readonly A: string; readonly B: string },
): Row[] {
  const byName = new Map(tensors.map(({ name, shape }) => [name, shape]))
  return tensors.flatMap(({ name, shape }) => {
    if (!name.endsWith(ends.A)) return []
    const module = name.slice(0, -ends.A.length)
    const B = byName.get(module + ends.B)
    return [{ module, r: shape[1] ?? null, in: shape[0] ?? null, out: B?.[1] ?? null }]
  })
}
