// Lines of the log, written once a turn of the event loop: a system call for each took a tenth of a request's time.
import { writeSync } from 'node:fs'

const STDOUT = 1
let lines = ''
let isBatching = false

/** From now on `console.log` of a string waits for the end of the turn, or of the process. */
export function batchLines(): void {
  if (isBatching) return
  isBatching = true
  const write = console.log
  console.log = (...values: unknown[]) => {
    const [line, ...others] = values
    if (typeof line !== 'string' || others.length > 0) return write(...values)
    if (lines === '') setImmediate(flush)
    lines += `${line}\n`
  }
  process.once('exit', () => {
    if (lines !== '') writeSync(STDOUT, lines)
  })
}

function flush(): void {
  process.stdout.write(lines)
  lines = ''
}
