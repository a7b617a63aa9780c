// The fields of the page → what the trainer takes. Bounds are the trainer's own; here is only text → numbers.
import { Settings } from '../trainer/browser/settings.ts'

const NUMBERS = ['r', 'alpha', 'dropout', 'learningRate', 'batchSize', 'seed', 'heldOutShare'] as const
/** Left empty: the trainer's choice. */
const OPEN = ['steps', 'maxLength', 'saveEvery', 'threads'] as const
const TICKS = ['useRslora', 'useDora', 'recompute'] as const
const WORDS = ['targetModules', 'precision', 'schedule', 'provider'] as const

export function readForm(form: HTMLFormElement): Settings {
  const data = new FormData(form)
  const text = (name: string) => String(data.get(name) ?? '').trim()
  // What a field does not take as a number it gives as nothing; that is none of ours either.
  const number = (name: string) => (text(name) === '' ? Number.NaN : Number(text(name)))
  return Settings.parse({
    ...Object.fromEntries(NUMBERS.map((name) => [name, orZero(number(name))])),
    ...Object.fromEntries(OPEN.map((name) => [name, text(name) === '' ? null : number(name)])),
    ...Object.fromEntries(TICKS.map((name) => [name, data.has(name)])),
    ...Object.fromEntries(WORDS.map((name) => [name, text(name)])),
  })
}

/** Of an emptied field: what the trainer refuses by name, where it refuses nought. */
function orZero(value: number): number {
  return Number.isNaN(value) ? 0 : value
}
