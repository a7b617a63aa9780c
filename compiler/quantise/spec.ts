// How weights are stored, and which linear is stored how.
import { inputError, quote } from '../errors.ts'

export const METHODS = ['int4', 'int8', 'nf4', 'fp16'] as const
export type Method = (typeof METHODS)[number]
/** `gptq` needs a calibration text: quantise/gptq.ts. */
export const ROUNDINGS = ['rtn', 'search', 'gptq'] as const
export type Rounding = (typeof ROUNDINGS)[number]
/** What the product with an integer weight makes of its activations: int8, block by block, or nothing. */
export const ACTIVATIONS = ['float', 'int8'] as const
export type Activations = (typeof ACTIVATIONS)[number]
export const GRIDS = ['symmetric', 'asymmetric', 'affine'] as const
export type Grid = (typeof GRIDS)[number]
/** What ONNX Runtime's CPU kernels take. */
export const BLOCKS = [16, 32, 64, 128] as const
/** More patterns than a model has modules say nothing more. */
const MAX_PATTERNS = 4096

/** What the caller asks for. */
export interface QuantiseOptions {
  readonly method: Method
  readonly block: (typeof BLOCKS)[number]
  /** Of integers: quantise/nbits.ts. `affine` is of int4; what else is an integer beside it is symmetric. */
  readonly grid: Grid
  readonly rounding: Rounding
  /** Modules, or patterns of them with `*`, that stay in float32. */
  readonly keep: readonly string[]
  /** Of int4 and nf4: those that are stored as int8. */
  readonly eight: readonly string[]
  /** int8 beside weights of 8 bits and float beside those of 4, where it is not said. */
  readonly activations?: Activations
}

/** The blocks of a quantised GGUF as they are: quantise/carry.ts. */
export interface KeepOptions {
  readonly method: 'keep'
  /** As in `QuantiseOptions`. */
  readonly activations?: Activations
  /** As in `QuantiseOptions`. */
  readonly keep: readonly string[]
}

export type Storage = 'float32' | 'float16' | 'int4' | 'int8' | 'nf4'

export interface IntegerSpec {
  readonly bits: 4 | 8
  readonly block: number
  readonly grid: Grid
  readonly search: boolean
}

/** Whether the product with a weight stored so rounds its activations to eight bits. */
export function roundsActivations(storage: Storage, activations: Activations | undefined): boolean {
  if (storage !== 'int4' && storage !== 'int8') return false
  return activations === undefined ? storage === 'int8' : activations === 'int8'
}

export function gridOf(storage: Storage, grid: Grid): Grid {
  return storage === 'int8' && grid === 'affine' ? 'symmetric' : grid
}

export const EMBEDDING_MODULE = 'model.embed_tokens'
export const HEAD_MODULE = 'lm_head'

/** `in`: length of a row of the weight, [out, in] as stored. */
export interface StorageRequest {
  readonly module: string
  readonly in: number
}

/**
 * Storage of each module, in the order given. Throws `InputError` where a pattern names nothing: a typo would quantise
 * what was to be kept.
 */
export function chooseStorage(options: QuantiseOptions, modules: readonly StorageRequest[]): Map<string, Storage> {
  const keep = matcher(options.keep, modules, '--keep')
  const eight = matcher(options.eight, modules, '--eight')
  return new Map(
    modules.map((request): [string, Storage] => {
      const { module } = request
      if (keep(module)) return [module, 'float32']
      const wanted = eight(module) ? 'int8' : ownStorage(options.method, module)
      // A block never crosses a row: a row that is not whole blocks has no place in either operator.
      return [module, isBlocked(wanted) && request.in % options.block !== 0 ? 'float16' : wanted]
    }),
  )
}

/** Four bits are too few for an embedding, whose rows are not averaged with others. */
function ownStorage(method: Method, module: string): Storage {
  if (method === 'fp16') return 'float16'
  if (module !== EMBEDDING_MODULE && module !== HEAD_MODULE) return method
  return method === 'nf4' ? 'float16' : 'int8'
}

function isBlocked(storage: Storage): boolean {
  return storage === 'int4' || storage === 'int8' || storage === 'nf4'
}

function matcher(patterns: readonly string[], modules: readonly StorageRequest[], option: string) {
  if (patterns.length > MAX_PATTERNS) {
    throw inputError('quantise-option', `${option} has ${patterns.length} patterns; at most ${MAX_PATTERNS} are read`)
  }
  const matched = new Set<string>()
  for (const pattern of patterns) {
    const found = modules.filter(({ module }) => matches(pattern, module))
    if (found.length === 0) {
      throw inputError(
        'quantise-option',
        `${option} ${quote(pattern)} names no module of the base; write e.g. lm_head or model.layers.*.mlp.down_proj`,
      )
    }
    for (const { module } of found) matched.add(module)
  }
  return (module: string) => matched.has(module)
}

/** `*` stands for one part between dots. No regular expression: a hostile pattern must not cost time. */
function matches(pattern: string, module: string): boolean {
  const wanted = pattern.split('.')
  const parts = module.split('.')
  return wanted.length === parts.length && wanted.every((part, i) => part === '*' || part === parts[i])
}
