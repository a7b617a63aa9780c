// What happens to each tensor of the base: the changes of all adapters, checked against the base and against each other.
import type { AdapterChanges, Change } from '../adapter/change.ts'
import { checkName } from '../adapter/check-name.ts'
import { compareCodePoints } from '../canonical-json.ts'
import { HEAD } from '../checkpoint/decoder.ts'
import { Problems, quote } from '../errors.ts'
import type { StoredTensor } from '../safetensors/read.ts'
import { type FloatTensorSource, isFloatTensor } from '../safetensors/stream.ts'

export type LowRank = Extract<Change, { kind: 'low-rank' }>
type Add = Extract<Change, { kind: 'add' }>
type Rows = Extract<Change, { kind: 'rows' }>

/** A change and the adapter's weight times its scaling. */
export interface Scaled<T> {
  readonly adapter: string
  readonly scale: number
  readonly change: T
}

/** One tensor that the merge changes; its parts apply in this order. Sums are in the order of the adapters' names. */
export interface TensorPlan {
  readonly tensor: FloatTensorSource
  /** The tensor as a matrix: the first size, and the product of the others. */
  readonly rows: number
  readonly columns: number
  /** What takes the place of the whole tensor before anything is added. */
  readonly replacement: FloatTensorSource | undefined
  readonly lowRank: readonly Scaled<LowRank>[]
  /** Σ r over `lowRank`. */
  readonly rank: number
  readonly added: readonly Scaled<Add>[]
  readonly replacedRows: Rows | undefined
  readonly adapters: readonly string[]
}

/** By tensor name; what is absent stays as it is. Throws one `InputError` with every problem. */
export function planMerge(
  base: { readonly name: string; readonly tensors: ReadonlyMap<string, StoredTensor> },
  adapters: readonly AdapterChanges[],
): Map<string, TensorPlan> {
  const problems = new Problems()
  checkAdapters(adapters, problems)
  const byTensor = new Map<string, Scaled<Change>[]>()
  for (const { name, weight, changes } of [...adapters].sort((a, b) => compareCodePoints(a.name, b.name))) {
    for (const change of changes) {
      const list = byTensor.get(change.tensor) ?? []
      byTensor.set(change.tensor, list)
      const scale = 'scaling' in change ? weight * change.scaling : weight
      list.push({ adapter: name, scale, change })
    }
  }
  const plans = new Map<string, TensorPlan>()
  for (const [name, changes] of byTensor) {
    const about = `${[...new Set(changes.map(({ adapter }) => `adapter ${quote(adapter)}`))].join(', ')}: ${quote(name)}`
    const tensor = base.tensors.get(name)
    if (tensor === undefined) reportMissing(name, about, base, problems)
    else if (!isFloatTensor(tensor)) {
      problems.add('tensor-dtype', `${about} is ${tensor.dtype} in the base; F32, F16 and BF16 can be merged into`)
    } else {
      const plan = planTensor(tensor, changes)
      checkConflicts(plan, changes, about, problems)
      checkShapes(plan, about, problems)
      plans.set(name, plan)
    }
  }
  problems.throwIfAny()
  return plans
}

function checkAdapters(adapters: readonly AdapterChanges[], problems: Problems): void {
  const seen = new Set<string>()
  for (const { name, weight } of adapters) {
    checkName(name, problems)
    if (seen.has(name)) problems.add('adapter-name', `adapter ${quote(name)} is given twice; give each its own name`)
    seen.add(name)
    if (Number.isFinite(weight) && weight !== 0) continue
    problems.add('adapter-weight', `adapter ${quote(name)}: the weight is ${weight}; give a finite one that is not 0`)
  }
}

function reportMissing(name: string, about: string, base: { readonly name: string }, problems: Problems): void {
  problems.add(
    name === HEAD ? 'adapter-target' : 'adapter-base',
    name === HEAD
      ? `${about} is not stored in ${base.name}: its head is the embedding, and to merge into one is to change both; ` +
          'untie the base first (save it with tie_word_embeddings=False)'
      : `${about} does not exist in ${base.name}; the adapter was trained for another base`,
  )
}

function planTensor(tensor: FloatTensorSource, changes: readonly Scaled<Change>[]): TensorPlan {
  const of = <K extends Change['kind']>(kind: K) =>
    changes.filter((item): item is Scaled<Extract<Change, { kind: K }>> => item.change.kind === kind)
  const [rows = 1, ...others] = tensor.shape.length === 1 ? [1, ...tensor.shape] : tensor.shape
  const replacement = of('replace')[0]?.change.value
  const lowRank = of('low-rank')
  return {
    tensor,
    rows,
    columns: others.reduce((product, size) => product * size, 1),
    replacement: replacement !== undefined && isFloatTensor(replacement) ? replacement : undefined,
    lowRank,
    rank: lowRank.reduce((sum, { change }) => sum + change.r, 0),
    added: of('add'),
    replacedRows: of('rows')[0]?.change,
    adapters: [...new Set(changes.map(({ adapter }) => adapter))],
  }
}

/** What takes the place of weights has no sum with what others do to them, and no half. */
function checkConflicts(plan: TensorPlan, changes: readonly Scaled<Change>[], about: string, problems: Problems): void {
  const replacing = changes.filter(({ change }) => change.kind === 'replace' || change.kind === 'rows')
  if (replacing.length > 0 && plan.adapters.length > 1) {
    problems.add(
      'adapter-target',
      `${about} is replaced by adapter ${quote(replacing[0]?.adapter ?? '')}, so no other adapter can change it too; merge one of them`,
    )
  }
  for (const { adapter, scale, change } of replacing) {
    if (scale === 1) continue
    const what = change.kind === 'replace' ? 'the whole tensor' : 'rows'
    problems.add(
      'adapter-weight',
      `adapter ${quote(adapter)} at weight ${scale} replaces ${what} of ${quote(change.tensor)}; that takes weight 1`,
    )
  }
  const dora = plan.lowRank.find(({ change }) => change.magnitude !== undefined)
  if (dora === undefined) return
  if (plan.adapters.length > 1) {
    problems.add('adapter-target', `${about}: DoRA rescales the whole weight, so its adapters do not add up; merge one`)
  }
  if (dora.scale !== dora.change.scaling) {
    problems.add(
      'adapter-weight',
      `adapter ${quote(dora.adapter)}: DoRA is not linear in its factors, so a weight other than 1 has no meaning`,
    )
  }
}

function checkShapes(plan: TensorPlan, about: string, problems: Problems): void {
  const { tensor, rows, columns, replacedRows } = plan
  const wrong = (found: string) => {
    problems.add(
      'adapter-base',
      `${about} is [${tensor.shape}] in the base but the adapter has ${found}; it was trained for another base`,
    )
  }
  for (const { change } of plan.lowRank) {
    const [out, inSize] = change.transposed ? [columns, rows] : [rows, columns]
    if (change.out !== out || change.in !== inSize) wrong(`${change.in} → ${change.out}`)
  }
  for (const { change } of plan.added)
    if (change.value.length !== rows * columns) wrong(`${change.value.length} values`)
  if (plan.replacement !== undefined && plan.replacement.shape.join() !== tensor.shape.join()) {
    wrong(`[${plan.replacement.shape}]`)
  }
  if (replacedRows === undefined) return
  if (replacedRows.value.length !== replacedRows.rows.length * columns) wrong(`rows of another width`)
  if (replacedRows.rows.some((row) => row >= rows)) wrong(`row ${Math.max(...replacedRows.rows)}`)
}
