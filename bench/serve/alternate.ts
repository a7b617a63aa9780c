// Cases that are to be compared run in turns, so that what else the machine does meets all of them.
import { quantile } from '../record.ts'

export interface Case {
  readonly name: string
  readonly run: () => Promise<unknown>
}

/** METRIC=cpu counts the time that the process had a core, for a machine that others use: waiting is then not seen. */
const now = (): number => {
  if (process.env.METRIC !== 'cpu') return performance.now()
  const { user, system } = process.cpuUsage()
  return (user + system) / 1000
}

/** Milliseconds of each run, by the name of the case. */
export async function alternate(cases: readonly Case[], times: number, warmUp = 3): Promise<Map<string, number[]>> {
  const found = new Map<string, number[]>(cases.map(({ name }) => [name, []]))
  for (let at = 0; at < warmUp + times; at++) {
    for (const { name, run } of cases) {
      const start = now()
      await run()
      if (at >= warmUp) found.get(name)!.push(round(now() - start))
    }
  }
  return found
}

export const median = (samples: readonly number[] | undefined): number => quantile(samples ?? [], 0.5)

export const round = (value: number): number => Math.round(value * 1000) / 1000
