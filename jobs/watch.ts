// A job over time, for whoever wants to see it: the latest state and never a backlog.
import { type Entry, isFinal } from './job-list.ts'

/** The job as it is now, then after each change until it is final; undefined where nothing happened for a while. */
export async function* watch(
  entry: Entry,
  signal: AbortSignal,
  keepAliveMs: number,
): AsyncGenerator<Entry | undefined, void, undefined> {
  for (let seen = -1; !signal.aborted; ) {
    const isNew = entry.revision !== seen
    seen = entry.revision
    yield isNew ? entry : undefined
    if (isFinal(entry)) return
    if (entry.revision === seen) await change(entry, signal, keepAliveMs)
  }
}

async function change(entry: Entry, signal: AbortSignal, limitMs: number): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>()
  const wake = () => resolve()
  const timer = setTimeout(wake, limitMs)
  entry.waiting.add(wake)
  signal.addEventListener('abort', wake)
  await promise
  clearTimeout(timer)
  entry.waiting.delete(wake)
  signal.removeEventListener('abort', wake)
}
