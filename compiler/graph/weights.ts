// Where every weight lies in model.onnx_data, decided before any byte is written: both graphs refer to the same places.
import { type Decoder, HEAD, type RopeScaling } from '../checkpoint/decoder.ts'
import { layoutOf } from '../checkpoint/families/families.ts'
import { layerLinears, requiredTensors } from '../checkpoint/names.ts'
import { inputError } from '../errors.ts'
import type { ElementType, ExternalTensor } from '../onnx/model.ts'
import { type Part, partsOf, quantisedNames } from '../quantise/place.ts'
import { chooseStorage, EMBEDDING_MODULE, HEAD_MODULE, type QuantiseOptions, type Storage } from '../quantise/spec.ts'
import { linearWeight } from './linear.ts'

export const DATA_FILE = 'model.onnx_data'
/** A cache line, and the widest vector register. */
const ALIGNMENT = 64

/** cos and sin of every position: [positions, head size], the cosines first. */
export const ROPE_TABLE = 'rope.cos_sin'
/** The same for the layers that have a window, where their θ is another. */
export const LOCAL_ROPE_TABLE = 'rope.local.cos_sin'

export interface PlannedWeight extends ExternalTensor {
  /**
   * `copy` and `transpose` take the tensor of this name from the checkpoint; `rope` is computed; `quantise` is a part of
   * the quantised form; `alias` names, in another shape, bytes that are there already.
   */
  readonly from:
    | { readonly how: 'copy'; readonly tensor: string }
    | { readonly how: 'transpose'; readonly tensor: string; readonly module: string }
    /** A linear that is stored [in, out] already. */
    | { readonly how: 'keep'; readonly tensor: string; readonly module: string }
    | { readonly how: 'rope'; readonly theta: number; readonly scaling: RopeScaling | undefined }
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
export function storageOf(config: Decoder, options: QuantiseOptions): Map<string, Storage> {
  const { hiddenSize, family } = config.architecture
  if (layoutOf(config.architecture).storesTransposed) {
    throw inputError(
      'config-unsupported',
      `the base is of the family ${family}, whose linears are stored [in, out]; such a base is not quantised, leave --quantize out`,
    )
  }
  return chooseStorage(options, [
    { module: EMBEDDING_MODULE, in: hiddenSize },
    ...layerLinears(config.architecture),
    ...(config.tiedHead ? [] : [{ module: HEAD_MODULE, in: hiddenSize }]),
  ])
}

/** In file order. */
export function planWeights(config: Decoder, quantise?: QuantiseOptions): PlannedWeight[] {
  const { architecture, traits } = config
  const layout = layoutOf(architecture)
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
  for (const [tensor, shape] of requiredTensors(config)) {
    const module = modules.get(tensor)
    const path = module ?? (tensor === layout.embedding ? EMBEDDING_MODULE : tensor === HEAD ? HEAD_MODULE : undefined)
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
        if (tensor === layout.embedding && storage === 'int8') {
          planned.push({ ...codes, name: quantisedNames(weight).rows, dims: [out, inSize], from: { how: 'alias' } })
        }
      }
    } else if (module === undefined) place(tensor, shape, { how: 'copy', tensor })
    else if (layout.storesTransposed) place(linearWeight(module), shape, { how: 'keep', tensor, module })
    else place(linearWeight(module), [...shape].reverse(), { how: 'transpose', tensor, module })
  }
  if (layout.positions !== undefined) return planned
  const dims = [architecture.maxPositions, traits?.rotaryDim ?? architecture.headDim]
  place(ROPE_TABLE, dims, { how: 'rope', theta: config.ropeTheta, scaling: traits?.ropeScaling })
  if (traits?.localRopeTheta !== undefined) {
    place(LOCAL_ROPE_TABLE, dims, { how: 'rope', theta: traits.localRopeTheta, scaling: undefined })
  }
  return planned
}
