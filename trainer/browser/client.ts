// Plans and runs from a page's side. Whoever calls supplies workers whose script is worker.ts.
import type { TrainEvent, TrainResult } from '../run/train.ts'
import type { PagePlan } from './plan.ts'
import type { Asked, FromWorker, ToWorker } from './protocol.ts'

/** The sentences of what went wrong, one a problem. */
export class TrainingError extends Error {
  override readonly name = 'TrainingError'
  readonly problems: readonly string[]

  constructor(problems: readonly string[]) {
    super(problems.join('\n'))
    this.problems = problems
  }
}

export type Began = Extract<FromWorker, { kind: 'began' }>
export type TrainRequest = Omit<Extract<ToWorker, { kind: 'train' }>, 'kind'>

export interface Watcher {
  readonly onBegan: (began: Began) => void
  readonly onEvent: (event: TrainEvent) => void
}

export interface RunningTraining {
  /** Throws `TrainingError`. */
  readonly ended: Promise<TrainResult>
  /** Ends it after the step that it is in, with a checkpoint. */
  stop(): void
}

/** Throws `TrainingError`, and the reason of `signal`. */
export function planTraining(makeWorker: () => Worker, asked: Asked, signal: AbortSignal): Promise<PagePlan> {
  const { said, end } = talk(makeWorker, { kind: 'plan', ...asked }, (message) =>
    message.kind === 'plan' ? message.plan : undefined,
  )
  const aborted = new Promise<never>((_, reject) => {
    signal.addEventListener('abort', () => reject(signal.reason), { once: true })
  })
  return Promise.race([said, aborted]).finally(end)
}

export function startTraining(
  makeWorker: () => Worker,
  request: TrainRequest,
  { onBegan, onEvent }: Watcher,
): RunningTraining {
  const { said, end, send } = talk(makeWorker, { kind: 'train', ...request }, (message) => {
    if (message.kind === 'began') onBegan(message)
    if (message.kind === 'event') onEvent(message.event)
    return message.kind === 'ended' ? message.result : undefined
  })
  return { ended: said.finally(end), stop: () => send({ kind: 'stop' }) }
}

function talk<T>(makeWorker: () => Worker, first: ToWorker, read: (message: FromWorker) => T | undefined) {
  const worker = makeWorker()
  const send = (message: ToWorker) => worker.postMessage(message)
  const said = new Promise<T>((resolve, reject) => {
    worker.onmessage = ({ data }: MessageEvent<FromWorker>) => {
      if (data.kind === 'failed') reject(new TrainingError(data.problems))
      const found = read(data)
      if (found !== undefined) resolve(found)
    }
    worker.onerror = ({ message }) =>
      reject(new TrainingError([`the worker of this page ended: ${message || 'its script does not load'}`]))
  })
  send(first)
  return { said, send, end: () => worker.terminate() }
}
