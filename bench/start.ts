// How long `sidepath up` takes until /healthz answers 200: in an empty data folder, and again in the same one.
import { join } from 'node:path'
import { freePort, startUp, temporaryFolder } from '../test/e2e/running.ts'
import { quantile, record } from './record.ts'

const TIMES = 5

async function secondsToReady(dataDir: string): Promise<number> {
  const ports = { port: await freePort(), backendPort: await freePort() }
  const started = performance.now()
  const running = await startUp({ dataDir, ...ports })
  const seconds = (performance.now() - started) / 1000
  await running.end('SIGTERM')
  return seconds
}

const first: number[] = []
const again: number[] = []
for (let times = 0; times < TIMES; times++) {
  const folder = await temporaryFolder()
  first.push(await secondsToReady(join(folder.path, 'data')))
  again.push(await secondsToReady(join(folder.path, 'data')))
  await folder.remove()
}
const row = (what: string, samples: number[]) => ({ what, value: `${quantile(samples, 0.5).toFixed(1)} s`, samples })
record('start', 'node bench/start.ts', [
  row('`sidepath up` in an empty folder: demo compiled, database seeded, ready', first),
  row('`sidepath up` again', again),
])
