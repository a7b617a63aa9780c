// Where every weight lies in model.onnx_data, decided before any byte is written: both graphs refer to the same places.
import type { LlamaConfig } from '../checkpoint/config.ts'
import { layerLinears, requiredTensors } from '../checkpoint/names.ts'
import type { ExternalTensor } from '../onnx/model.ts'
import { linearWeight } from './linear.ts'

export const DATA_FILE = 'model.onnx_data'
/** A cache line, and the widest vector register. */
const ALIGNMENT = 64

/** cos and sin of every position: [positions, head size], the cosines first. */
export const ROPE_TABLE = 'rope.cos_sin'

export interface PlannedWeight extends ExternalTensor {
  /** `copy` and `transpose` take the tensor of this name from the checkpoint; `rope` is computed. */
  readonly from:
    | { readonly how: 'copy'; readonly tensor: string }
    | { readonly how: 'transpose'; readonly tensor: string; readonly module: string }
    | { readonly how: 'rope' }
}

/** In file order. */
export function planWeights(config: LlamaConfig): PlannedWeight[] {
  const { architecture, tiedHead } = config
  const modules = new Map(layerLinears(architecture).map(({ module }) => [`${module}.weight`, module]))
  const planned: PlannedWeight[] = []
  let end = 0
  const place = (name: string, dims: readonly number[], from: PlannedWeight['from']) => {
    const offset = Math.ceil(end / ALIGNMENT) * ALIGNMENT
    const bytes = dims.reduce((product, size) => product * size, 4)
    end = offset + bytes
    planned.push({ name, dims, location: DATA_FILE, offset, bytes, from })
  }
  for (const [tensor, shape] of requiredTensors(architecture, tiedHead)) {
    const module = modules.get(tensor)
    if (module === undefined) place(tensor, shape, { how: 'copy', tensor })
    else place(linearWeight(module), [...shape].reverse(), { how: 'transpose', tensor, module })
  }
  place(ROPE_TABLE, [architecture.maxPositions, architecture.headDim], { how: 'rope' })
  return planned
}
