// The few whole numbers that a graph computes from constants and shapes: where a fused output is cut. What depends on the
// data is unknown.
import { producer, type SurgeryGraph, type SurgeryNode, type SurgeryTensor } from '../onnx/read-graph.ts'
import { rawFields } from '../onnx/splice.ts'

/** Longest list of sizes, and of steps to one: a cut is a handful of numbers. */
const MAX_NUMBERS = 16
const MAX_STEPS = 64

type Numbers = readonly (number | undefined)[]

/** `lastSizes`: the last dimension of some values, by name. `undefined` where the numbers are not known. */
export function numbersOf(
  graph: SurgeryGraph,
  name: string,
  lastSizes: ReadonlyMap<string, number>,
): readonly number[] | undefined {
  const found = evaluate(graph, name, lastSizes, { steps: 0 })
  return found?.every((value) => value !== undefined) ? (found as readonly number[]) : undefined
}

function evaluate(
  graph: SurgeryGraph,
  name: string,
  lastSizes: ReadonlyMap<string, number>,
  budget: { steps: number },
): Numbers | undefined {
  budget.steps += 1
  if (budget.steps > MAX_STEPS) return undefined
  for (let at: SurgeryGraph | undefined = graph; at !== undefined; at = at.parent) {
    const tensor = at.initializers.get(name)
    if (tensor !== undefined) return int64s(tensor)
    if (at.producers.has(name)) break
  }
  const node = producer(graph, name)
  if (node === undefined || node.domain !== '') return undefined
  const input = (index: number) => evaluate(node.graph, node.inputs[index] ?? '', lastSizes, budget)
  switch (node.op) {
    case 'Constant':
      return constantOf(node)
    case 'Identity':
    case 'Cast':
    case 'Unsqueeze':
    case 'Squeeze':
      return input(0)
    case 'Shape': {
      const last = lastSizes.get(node.inputs[0] ?? '')
      // [batch, length, last] and nothing else: what is asked for by a place from the front is that place of three.
      return last === undefined || node.ints.has('start') ? undefined : [undefined, undefined, last]
    }
    case 'Gather': {
      const [values, at] = [input(0), input(1)]
      const index = at?.length === 1 ? at[0] : undefined
      return values === undefined || index === undefined ? undefined : [values.at(index)]
    }
    case 'Add':
    case 'Sub':
    case 'Mul':
    case 'Div':
      return arithmetic(node.op, input(0), input(1))
    default:
      return undefined
  }
}

function arithmetic(op: 'Add' | 'Sub' | 'Mul' | 'Div', a: Numbers | undefined, b: Numbers | undefined) {
  const [x, y] = [a?.length === 1 ? a[0] : undefined, b?.length === 1 ? b[0] : undefined]
  if (x === undefined || y === undefined || (op === 'Div' && y === 0)) return undefined
  if (op === 'Add') return [x + y]
  if (op === 'Sub') return [x - y]
  return [op === 'Mul' ? x * y : Math.trunc(x / y)]
}

function constantOf({ ints, lists, tensors }: SurgeryNode): Numbers | undefined {
  const one = ints.get('value_int')
  if (one !== undefined) return [one]
  const payload = tensors.get('value')
  return payload === undefined ? lists.get('value_ints') : int64s({ payload })
}

const INT64 = 7

/** Inline int64 only, which sizes are. */
function int64s({ payload }: Pick<SurgeryTensor, 'payload'>): readonly number[] | undefined {
  const fields = rawFields(payload, 'a constant')
  const isInt64 = fields.some(({ number, raw }) => number === 2 && raw[1] === INT64)
  const data = fields.find(({ number }) => number === 9)?.payload
  if (!isInt64 || data === undefined || data.length % 8 !== 0 || data.length > MAX_NUMBERS * 8) return undefined
  const view = new DataView(data.buffer, data.byteOffset, data.length)
  return Array.from({ length: data.length / 8 }, (_, index) => Number(view.getBigInt64(index * 8, true)))
}
