// Where every weight lies in model.onnx_data, decided before any byte is written: both graphs refer to the same places.
import type { LlamaConfig } from '../checkpoint/config.ts'
import { EMBEDDING, HEAD, layerLinears, requiredTensors } from '../checkpoint/names.ts'
import type { ElementType, ExternalTensor } from '../onnx/model.ts'
import { type Part, partsOf, quantisedNames } from '../quantise/place.ts'
import { chooseStorage, EMBEDDING_MODULE, HEAD_MODULE, type QuantiseOptions, type Storage } from '../quantise/spec.ts'
import { linearWeight } from './linear.ts'

export const DATA_FILE = 'model.onnx_data'
/** A cache line, and the widest vector register. */
const ALIGNMENT = 64

/** cos and sin of every position: [positions, head size], the cosines first. */
export const ROPE_TABLE = 'rope.cos_sin'

export interface PlannedWeight extends ExternalTensor {
  /**
   * `copy` and `transpose` take the tensor of this name from the checkpoint; `rope` is computed; `quantise` is a part of
   * the quantised form; `alias` names, in another shape, bytes that are there already.
   */
  readonly from:
    | { readonly how: 'copy'; readonly tensor: string }
    | { readonly how: 'transpose'; readonly tensor: string; readonly module: string }
    | { readonly how: 'rope' }
    | {
        readonly how: 'quantise'
        readonly tensor: string
        readonly module: string
        readonly storage: Exclude<Storage, 'float32'>
        readonly part: Part
      }
    | { readonly how: 'alias' }
}

const ELEMENT_BYTES: Readonly<Partial<Record<ElementType, number>>> = { float32: 4, float16: 2, uint8: 1 }

/** Every module whose weight can be quantised, and how each is stored. */
export function storageOf(config: LlamaConfig, options: QuantiseOptions): Map<string, Storage> {
  const { hiddenSize } = config.architecture
  return chooseStorage(options, [
    { module: EMBEDDING_MODULE, in: hiddenSize },
    ...layerLinears(config.architecture),
    ...(config.tiedHead ? [] : [{ module: HEAD_MODULE, in: hiddenSize }]),
  ])
}

/** In file order. */
export function planWeights(config: LlamaConfig, quantise?: QuantiseOptions): PlannedWeight[] {
  const { architecture, tiedHead } = config
  const modules = new Map(layerLinears(architecture).map(({ module }) => [`${module}.weight`, module]))
  const planned: PlannedWeight[] = []
  let end = 0
  const place = (name: string, dims: readonly number[], from: PlannedWeight['from'], type: ElementType = 'float32') => {
    const offset = Math.ceil(end / ALIGNMENT) * ALIGNMENT
    const bytes = dims.reduce((product, size) => product * size, ELEMENT_BYTES[type] ?? 0)
    end = offset + bytes
    planned.push({ name, ...(type === 'float32' ? {} : { type }), dims, location: DATA_FILE, offset, bytes, from })
  }
  const stored = quantise === undefined ? undefined : storageOf(config, quantise)
  for (const [tensor, shape] of requiredTensors(architecture, tiedHead)) {
    const module = modules.get(tensor)
    const path = module ?? (tensor === EMBEDDING ? EMBEDDING_MODULE : tensor === HEAD ? HEAD_MODULE : undefined)
    const storage = path === undefined ? 'float32' : (stored?.get(path) ?? 'float32')
    if (quantise !== undefined && path !== undefined && storage !== 'float32') {
      const weight = module === undefined ? tensor : linearWeight(module)
      const [out = 0, inSize = 0] = shape
      for (const { name, dims, type, part } of partsOf(weight, storage, [out, inSize], quantise)) {
        place(name, dims, { how: 'quantise', tensor, module: path, storage, part }, type)
        const placed = planned.at(-1)
        if (part !== 'codes' || placed === undefined) continue
        const codes = { ...placed, quantised: { in: inSize, out, block: quantise.block } }
        planned[planned.length - 1] = codes
        if (tensor === EMBEDDING && storage === 'int8') {
          planned.push({ ...codes, name: quantisedNames(weight).rows, dims: [out, inSize], from: { how: 'alias' } })
        }
      }
    } else if (module === undefined) place(tensor, shape, { how: 'copy', tensor })
    else place(linearWeight(module), [...shape].reverse(), { how: 'transpose', tensor, module })
  }
  place(ROPE_TABLE, [architecture.maxPositions, architecture.headDim], { how: 'rope' })
  return planned
}
