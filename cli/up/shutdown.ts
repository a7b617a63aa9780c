// An orderly end at any moment of the start: what was opened is closed in reverse, whether by a signal or by a failure.
import { fail } from '../fail.ts'

export interface Shutdown {
  /** Remembers how to close what was just opened; closes it at once where the end has begun meanwhile. */
  opened(close: () => Promise<void>): Promise<void>
  /** Closes everything. Resolves to false where a signal has begun that already, and will end the process. */
  now(): Promise<boolean>
}

/** The first SIGINT or SIGTERM closes everything and exits with 0; a second one exits at once. */
export function shutdownOnSignal(): Shutdown {
  const closing: (() => Promise<void>)[] = []
  let signalled = false
  const closeAll = async () => {
    for (let close = closing.pop(); close !== undefined; close = closing.pop()) await close()
  }
  const stop = () => {
    if (signalled) process.exit(130)
    signalled = true
    process.stdout.write('stopping …\n')
    closeAll().then(() => process.exit(0), fail)
  }
  process.on('SIGINT', stop)
  process.on('SIGTERM', stop)
  return {
    async opened(close) {
      closing.push(close)
      if (signalled) await closeAll()
    },
    async now() {
      if (signalled) return false
      await closeAll()
      return true
    },
  }
}
