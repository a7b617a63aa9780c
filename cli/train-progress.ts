// The progress of a training run: a bar with loss, speed and time left on a terminal; a line now and then elsewhere.
import { duration, Pace } from '../trainer/run/pace.ts'
import type { TrainEvent } from '../trainer/run/train.ts'

/** Loaded only where it has something to show. */
const cliProgress = process.stderr.isTTY ? await import('cli-progress') : undefined

/** Between two lines of a log. */
const LOG_EVERY_MS = 10_000

export interface TrainProgress {
  show(event: TrainEvent): void
  /** A line of its own. */
  say(sentence: string): void
  stop(): void
}

export function startTrainProgress(enabled: boolean): TrainProgress {
  if (!enabled) return { show: () => {}, say: () => {}, stop: () => {} }
  const bar =
    cliProgress &&
    new cliProgress.SingleBar(
      {
        format: '{stage} {bar} {value}/{total} | {figures}',
        stream: process.stderr,
        hideCursor: true,
        clearOnComplete: true,
        linewrap: false,
      },
      cliProgress.Presets.shades_classic,
    )
  const pace = new Pace()
  let stage = ''
  let held = ''
  let loggedAt = Number.NEGATIVE_INFINITY
  const update = (name: string, done: number, total: number, figures: string) => {
    if (bar !== undefined) {
      if (stage !== name) bar.start(total, 0, { stage: name, figures })
      stage = name
      bar.update(done, { stage: name, figures })
      return
    }
    if (name !== 'train' || (performance.now() - loggedAt < LOG_EVERY_MS && done < total)) return
    loggedAt = performance.now()
    process.stderr.write(`step ${done}/${total} | ${figures}\n`)
  }
  return {
    show(event) {
      if (event.kind === 'held-out') held = ` | held out ${event.loss.toFixed(4)}`
      else if (event.kind === 'prepare') {
        const mib = (bytes: number) => Math.ceil(bytes / 2 ** 20)
        update('base', mib(event.doneBytes), mib(event.totalBytes), 'MiB')
      } else {
        const { step, loss } = event.line
        pace.add(event.line)
        update(
          'train',
          step,
          event.steps,
          `loss ${loss.toFixed(4)}${held} | ${pace.tokensPerSecond.toFixed(0)} tokens/s | ${duration(pace.secondsFor(event.steps - step))} left`,
        )
      }
    },
    say(sentence) {
      if (bar === undefined) process.stderr.write(`${sentence}\n`)
      else {
        bar.stop()
        process.stderr.write(`${sentence}\n`)
        stage = ''
      }
    },
    stop: () => bar?.stop(),
  }
}
