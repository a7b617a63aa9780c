// Parses a compiled adapter, adapters/<digest>.safetensors, for the backend. The file may come from anywhere, so all that
// the compiler promised is checked again.
import { ADAPTER_METADATA, ADAPTER_SCHEMA, factorA, factorB } from './adapter/encode.ts'
import { AdapterName, type Linear, type LowRankManifest } from './contract.ts'
import { inputError, Problems, quote } from './errors.ts'
import type { ByteSource } from './host.ts'
import { firstNonFinite } from './safetensors/decode.ts'
import { readHeader, type SafetensorsHeader, type StoredTensor } from './safetensors/read.ts'
import { type FloatTensorSource, readFloats } from './safetensors/stream.ts'

export interface CompiledModule {
  readonly r: number
  /** [in, r], row-major. */
  readonly A: Float32Array
  /** [r, out], row-major, the scaling already in it. */
  readonly B: Float32Array
}

export interface CompiledAdapter {
  readonly name: string
  /** Largest rank over the modules. */
  readonly r: number
  /** In the order of the manifest's bank or stack; a module that is absent is zeros. */
  readonly modules: ReadonlyMap<string, CompiledModule>
}

export interface ReadAdapterOptions {
  /** The rank of the caller's bank; an adapter above it is refused before its tensors are read. */
  readonly maxRank?: number
}

/** `manifest`: of a routed or a stacked artifact. Throws `InputError` with every problem. */
export async function readAdapter(
  source: ByteSource,
  manifest: LowRankManifest,
  options: ReadAdapterOptions = {},
): Promise<CompiledAdapter> {
  const header = await readHeader(source)
  const name = checkMetadata(header, source, manifest)
  const problems = new Problems()
  const linears = manifest.stack ?? manifest.bank
  const known = new Set(linears.flatMap(({ module }) => [factorA(module), factorB(module)]))
  for (const tensor of header.tensors.keys()) {
    if (!known.has(tensor)) {
      problems.add(
        'tensor-unknown',
        `${source.name}: tensor ${quote(tensor)} has no place in the low-rank path of the base`,
      )
    }
  }
  if (header.tensors.size === 0) problems.add('tensor-missing', `${source.name}: there are no tensors`)
  const shapes = linears.flatMap((linear) => checkPair(header, linear, source, options, problems))
  problems.throwIfAny()

  const modules = new Map<string, CompiledModule>()
  for (const { module, r, A, B } of shapes) {
    modules.set(module, { r, A: await readFinite(A, problems), B: await readFinite(B, problems) })
  }
  problems.throwIfAny()
  return { name, r: Math.max(...shapes.map(({ r }) => r)), modules }
}

function checkMetadata({ metadata }: SafetensorsHeader, source: ByteSource, manifest: LowRankManifest): string {
  const schema = metadata.get(ADAPTER_METADATA.schema)
  if (schema !== ADAPTER_SCHEMA) {
    throw inputError(
      'adapter-format',
      `${source.name}: not a compiled adapter (${ADAPTER_METADATA.schema} is ${quote(String(schema))}, ` +
        `not "${ADAPTER_SCHEMA}"); compile the PEFT folder first`,
    )
  }
  const base = metadata.get(ADAPTER_METADATA.base)
  if (base !== manifest.base.digest) {
    throw inputError(
      'adapter-base',
      `${source.name}: compiled for the base ${quote(String(base))}, not ${manifest.base.digest}; compile it for this base`,
    )
  }
  const name = AdapterName.safeParse(metadata.get(ADAPTER_METADATA.name))
  if (!name.success) throw inputError('adapter-name', `${source.name}: ${ADAPTER_METADATA.name} is no adapter name`)
  return name.data
}

interface CheckedPair {
  readonly module: string
  readonly r: number
  readonly A: FloatTensorSource
  readonly B: FloatTensorSource
}

function checkPair(
  { tensors }: SafetensorsHeader,
  { module, in: inSize, out }: Linear,
  source: ByteSource,
  { maxRank }: ReadAdapterOptions,
  problems: Problems,
): CheckedPair[] {
  const about = `${source.name}: ${module}`
  const A = tensors.get(factorA(module))
  const B = tensors.get(factorB(module))
  if (A === undefined && B === undefined) return []
  if (A === undefined || B === undefined) {
    problems.add('adapter-pair', `${about} has lora_${A === undefined ? 'B' : 'A'} only; compile the adapter again`)
    return []
  }
  if (!isFloat32(A) || !isFloat32(B)) {
    problems.add('tensor-dtype', `${about} is stored as ${A.dtype} and ${B.dtype}; both are F32 in a compiled adapter`)
    return []
  }
  const r = A.shape[1] ?? 0
  if (r < 1 || A.shape.join() !== `${inSize},${r}` || B.shape.join() !== `${r},${out}`) {
    problems.add(
      'tensor-shape',
      `${about} has lora_A [${A.shape}] and lora_B [${B.shape}]; the base needs [${inSize}, r] and [r, ${out}]`,
    )
    return []
  }
  if (maxRank !== undefined && r > maxRank) {
    problems.add('adapter-rank', `${about} has rank ${r}; the bank holds ranks up to ${maxRank}, start it with more`)
    return []
  }
  return [{ module, r, A, B }]
}

async function readFinite(tensor: FloatTensorSource, problems: Problems): Promise<Float32Array> {
  const values = await readFloats(tensor)
  if (firstNonFinite(values) >= 0) {
    problems.add('tensor-not-finite', `${tensor.source.name}: ${tensor.name} holds NaN or infinity; it is refused`)
  }
  return values
}

function isFloat32(tensor: StoredTensor): tensor is FloatTensorSource {
  return tensor.dtype === 'F32'
}
