// Loaded before a soaked process, with --expose-gc: at SIGUSR2 it collects its garbage and appends what is left, in bytes,
// to HEAP_LOG. Resident memory alone cannot tell what is kept from what has not been collected yet.
import { appendFileSync } from 'node:fs'
import { z } from 'zod'

const { HEAP_LOG } = z.object({ HEAP_LOG: z.string() }).parse(process.env)

process.on('SIGUSR2', () => {
  globalThis.gc?.()
  globalThis.gc?.()
  const { heapUsed, external } = process.memoryUsage()
  appendFileSync(HEAP_LOG, `${heapUsed + external}\n`)
})
