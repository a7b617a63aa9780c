// What an ONNX target takes of an adapter: plain low-rank changes of the linears of a Llama's layers, as the graph wants
// them. The rest of what `readChanges` reads is refused by name, with the way out.
import type { Linear } from '../contract.ts'
import { Problems } from '../errors.ts'
import type { Folder } from '../host.ts'
import type { BaseTensors, Change } from './change.ts'
import { transpose } from './low-rank.ts'
import { type AdapterInput, readChanges } from './read-changes.ts'

export interface AdapterModule {
  readonly linear: Linear
  readonly r: number
  /** s = lora_alpha / r, or lora_alpha / √r with rsLoRA; not yet in `B`. */
  readonly scaling: number
  /** Aᵀ, row-major [in, r]. */
  readonly A: Float32Array
  /** Bᵀ, row-major [r, out]. */
  readonly B: Float32Array
  /** The tensors of the file that this module used. */
  readonly tensors: readonly string[]
}

export interface Adapter {
  readonly name: string
  readonly weight: number
  readonly loraAlpha: number
  readonly useRslora: boolean
  /** In the order of the base's graph. */
  readonly modules: readonly AdapterModule[]
}

/** `linears`: those of the base that an adapter may change. Throws one `InputError` with every problem of the adapter. */
export async function readAdapterFolder(
  name: string,
  folder: Folder,
  linears: readonly Linear[],
  weight = 1,
): Promise<Adapter> {
  const input: AdapterInput = { name, folder, weight }
  const base: BaseTensors = new Map(
    linears.map(({ module, in: inSize, out }) => [`${module}.weight`, { dtype: 'F32', shape: [out, inSize] }]),
  )
  const { changes, loraAlpha, useRslora } = await readChanges(input, base, { isPartial: true })
  const problems = new Problems()
  const byTensor = Map.groupBy(changes, (change) => change.tensor)
  const modules = linears.flatMap((linear) => {
    const ofLinear = byTensor.get(`${linear.module}.weight`) ?? []
    for (const what of ofLinear.flatMap((change) => refusal(change) ?? [])) {
      problems.add(
        'adapter-option',
        `adapter "${name}": ${linear.module} ${what}, which an ONNX target cannot take; merge it into the checkpoint first`,
      )
    }
    return ofLinear.flatMap((change) => (change.kind === 'low-rank' ? toModule(linear, change) : []))
  })
  problems.throwIfAny()
  return { name, weight, loraAlpha, useRslora, modules }
}

/** What is more than a plain low-rank change; `undefined` where nothing is. */
function refusal(change: Change): string | undefined {
  if (change.kind !== 'low-rank') return 'is replaced (saved whole)'
  if (change.magnitude !== undefined) return 'is DoRA (use_dora)'
  return change.transposed ? 'is stored the other way round (fan_in_fan_out)' : undefined
}

function toModule(linear: Linear, { A, B, r, scaling, sources }: Change & { kind: 'low-rank' }): AdapterModule {
  return { linear, r, scaling, A: transpose(A, r, linear.in), B: transpose(B, linear.out, r), tensors: sources }
}
