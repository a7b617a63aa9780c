// Where every weight lies in model.onnx_data, decided before any byte is written: both graphs refer to the same places.
import { type Decoder, HEAD, type RopeScaling } from '../checkpoint/decoder.ts'
import { layoutOf } from '../checkpoint/families/families.ts'
import { layerLinears, requiredTensors } from '../checkpoint/names.ts'
import { inputError } from '../errors.ts'
import type { ElementType, ExternalTensor } from '../onnx/model.ts'
import { type Carrier, carriedParts } from '../quantise/carry.ts'
import type { KeptWeight } from '../quantise/carry-plan.ts'
import { type Part, partsOf, quantisedNames } from '../quantise/place.ts'
import {
  type Activations,
  chooseStorage,
  EMBEDDING_MODULE,
  HEAD_MODULE,
  type QuantiseOptions,
  roundsActivations,
  type Storage,
} from '../quantise/spec.ts'
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
   * the quantised form; `carry` of one whose blocks are in the checkpoint; `alias` names, in another shape, bytes that are there already.
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
    | {
        readonly how: 'carry'
        readonly tensor: string
        readonly module: string
        readonly carrier: Carrier
        readonly part: Part
      }
    | { readonly how: 'alias' }
}

const ELEMENT_BYTES: Readonly<Partial<Record<ElementType, number>>> = { float32: 4, float16: 2, uint8: 1 }

/** Every module whose weight can be quantised, with its tensor and the length of its rows. */
export function quantisable(config: Decoder): Map<string, { readonly tensor: string; readonly in: number }> {
  const { hiddenSize, family } = config.architecture
  if (layoutOf(config.architecture).storesTransposed) {
    throw inputError(
      'config-unsupported',
      `the base is of the family ${family}, whose linears are stored [in, out]; such a base is not quantised, leave --quantize out`,
    )
  }
  const embedding = layoutOf(config.architecture).embedding
  return new Map([
    [EMBEDDING_MODULE, { tensor: embedding, in: hiddenSize }],
    ...layerLinears(config.architecture).map(
      ({ module, in: inSize }) => [module, { tensor: `${module}.weight`, in: inSize }] as const,
    ),
    ...(config.tiedHead ? [] : [[HEAD_MODULE, { tensor: HEAD, in: hiddenSize }] as const]),
  ])
}

/** How each of them is stored. */
export function storageOf(config: Decoder, options: QuantiseOptions): Map<string, Storage> {
  const modules = [...quantisable(config)].map(([module, { in: inSize }]) => ({ module, in: inSize }))
  return chooseStorage(options, modules)
}

/** The weights of a quantised GGUF, blocks where they can be carried over and floats elsewhere. */
export interface Keeping {
  readonly method: 'keep'
  readonly activations?: Activations
  readonly modules: ReadonlyMap<string, KeptWeight>
}

interface StoredForm extends Pick<QuantiseOptions, 'block' | 'grid'> {
  readonly storage: Storage
  readonly carrier?: Carrier
}

function formsOf(config: Decoder, quantise: QuantiseOptions | Keeping): Map<string, StoredForm> {
  if (quantise.method !== 'keep') {
    const { block, grid } = quantise
    return new Map([...storageOf(config, quantise)].map(([module, storage]) => [module, { storage, block, grid }]))
  }
  const forms = new Map<string, StoredForm>()
  for (const [module, { storage, carrier }] of quantise.modules) {
    // Of a float, neither is asked for.
    forms.set(module, { storage, block: carrier?.block ?? 32, grid: 'symmetric', ...(carrier && { carrier }) })
  }
  return forms
}

/** In file order. */
export function planWeights(config: Decoder, quantise?: QuantiseOptions | Keeping): PlannedWeight[] {
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
  const stored = quantise === undefined ? undefined : formsOf(config, quantise)
  for (const [tensor, shape] of requiredTensors(config)) {
    const module = modules.get(tensor)
    const path = module ?? (tensor === layout.embedding ? EMBEDDING_MODULE : tensor === HEAD ? HEAD_MODULE : undefined)
    const form = path === undefined ? undefined : stored?.get(path)
    const storage = form?.storage ?? 'float32'
    if (quantise !== undefined && path !== undefined && form !== undefined && storage !== 'float32') {
      const weight = module === undefined ? tensor : linearWeight(module)
      const [out = 0, inSize = 0] = shape
      const { carrier, block } = form
      const parts =
        carrier === undefined
          ? partsOf(weight, storage, [out, inSize], form)
          : carriedParts(weight, carrier, [out, inSize])
      for (const { name, dims, type, part } of parts) {
        const how =
          carrier === undefined ? ({ how: 'quantise', storage } as const) : ({ how: 'carry', carrier } as const)
        place(name, dims, { ...how, tensor, module: path, part }, type)
        const placed = planned.at(-1)
        if (part !== 'codes' || placed === undefined) continue
        const rounds = roundsActivations(storage, quantise.activations)
        const codes = {
          ...placed,
          quantised: { in: inSize, out, block, rounds, ...(carrier?.centre ? { centre: carrier.centre } : {}) },
        }
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
