// One run on the page: what it does, its figures, its losses as a plot, and what can be done with it.
import type { History } from '../trainer/browser/saved-run.ts'
import { lossPlot, type Point } from '../trainer/run/loss-plot.ts'
import { duration, Pace } from '../trainer/run/pace.ts'
import type { TrainEvent } from '../trainer/run/train.ts'
import { byId, fillList } from './dom.ts'

/** Between two drawings of the plot. */
const DRAW_EVERY_MS = 400

export type RunState = 'begins' | 'trains' | 'paused' | 'finished' | 'failed' | 'refused'

const ACTIONS: Readonly<Record<RunState, readonly string[]>> = {
  begins: ['stop'],
  trains: ['stop'],
  paused: ['go-on', 'delete'],
  finished: ['download', 'delete'],
  failed: ['go-on', 'delete'],
  refused: [],
}

export class RunView {
  readonly #section = byId('run', HTMLElement)
  readonly #progress = byId('run-progress', HTMLProgressElement)
  readonly #plot = byId('run-plot', HTMLImageElement)
  #train: Point[] = []
  #held: Point[] = []
  #pace = new Pace()
  #steps = 1
  #drawnAt = Number.NEGATIVE_INFINITY

  open(title: string, steps: number, { train, held }: History): void {
    this.#section.hidden = false
    byId('run-title', HTMLElement).textContent = title
    this.#train = [...train]
    this.#held = [...held]
    this.#pace = new Pace()
    this.#steps = steps
    fillList(byId('run-problems', HTMLElement), [])
    fillList(byId('run-notes', HTMLElement), [])
    this.#showStep()
    this.#draw()
  }

  close(): void {
    this.#section.hidden = true
  }

  /** `sentence`: what the state is, for people. */
  show(state: RunState, sentence: string, publishes = false): void {
    this.#section.dataset.state = state
    this.say(sentence)
    for (const id of ['stop', 'go-on', 'download', 'delete']) {
      byId(id, HTMLButtonElement).hidden = !ACTIONS[state].includes(id)
    }
    byId('publish', HTMLFormElement).hidden = state !== 'finished' || !publishes
    this.#draw()
  }

  say(sentence: string): void {
    byId('run-state', HTMLElement).textContent = sentence
  }

  fail(problems: readonly string[]): void {
    fillList(byId('run-problems', HTMLElement), problems)
  }

  note(notes: readonly string[]): void {
    fillList(byId('run-notes', HTMLElement), notes)
  }

  add(event: TrainEvent): void {
    if (event.kind === 'prepare') {
      const mib = (bytes: number) => Math.ceil(bytes / 2 ** 20)
      this.say(`Reading the base: ${mib(event.doneBytes)} of ${mib(event.totalBytes)} MiB`)
      return
    }
    if (event.kind === 'held-out')
      this.#held = [...before(this.#held, event.step), { step: event.step, loss: event.loss }]
    else {
      const { step, loss } = event.line
      // What was done after the last checkpoint is done again.
      this.#train = [...before(this.#train, step), { step, loss }]
      this.#held = before(this.#held, step)
      this.#steps = event.steps
      this.#pace.add(event.line)
    }
    this.#showStep()
    if (performance.now() - this.#drawnAt >= DRAW_EVERY_MS) this.#draw()
  }

  #showStep(): void {
    const last = this.#train.at(-1)
    const [step, steps] = [last?.step ?? 0, this.#steps]
    this.#progress.value = step / steps
    const figures: [string, string][] = [
      ['step', `${step} of ${steps}`],
      ['loss', last?.loss.toFixed(4) ?? '–'],
      ['held-out loss', this.#held.at(-1)?.loss.toFixed(4) ?? '–'],
      ...this.#speed(steps - step),
    ]
    byId('run-figures', HTMLElement).replaceChildren(
      ...figures.map(([name, value]) => {
        const group = document.createElement('div')
        const [term, figure] = [document.createElement('dt'), document.createElement('dd')]
        term.textContent = name
        figure.textContent = value
        group.append(term, figure)
        return group
      }),
    )
  }

  #speed(stepsLeft: number): [string, string][] {
    const speed = this.#pace.tokensPerSecond
    if (speed === 0) return []
    return [
      ['tokens a second', speed.toFixed(speed < 10 ? 1 : 0)],
      ['time left', duration(this.#pace.secondsFor(stepsLeft))],
    ]
  }

  #draw(): void {
    this.#drawnAt = performance.now()
    this.#plot.hidden = this.#train.length === 0
    if (this.#plot.hidden) return
    const url = URL.createObjectURL(new Blob([lossPlot(this.#train, this.#held)], { type: 'image/svg+xml' }))
    const old = this.#plot.src
    this.#plot.src = url
    this.#plot.alt = `Loss by step, ${this.#train.length} steps: the last is ${this.#train.at(-1)?.loss.toFixed(4)}`
    if (old !== '') URL.revokeObjectURL(old)
  }
}

/** A list that ends before a step. Most of the time nothing is cut, and nothing copied. */
function before(points: Point[], step: number): Point[] {
  const last = points.at(-1)
  return last === undefined || last.step < step ? points : points.filter((point) => point.step < step)
}
