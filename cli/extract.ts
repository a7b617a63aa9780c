// `sidepath extract`: two checkpoints in, the PEFT adapter that leads from one towards the other out.
import { resolve } from 'node:path'
import { type ExtractReport, extractAdapter } from '../compiler/merge/extract.ts'
import { type Base, openBase } from '../compiler/merge/open-base.ts'
import { UserError } from './fail.ts'
import { openBaseFolder } from './open-base.ts'
import { startProgress } from './progress.ts'
import { table } from './table.ts'
import { writeFolder } from './write-folder.ts'

/** As the command line gives them. */
export interface ExtractCommandOptions {
  readonly base: string
  readonly tuned: string
  readonly rank: string
  readonly out: string
  readonly skipOthers?: boolean
  readonly json?: boolean
}

/** Modules that the summary lists: those that lost most. `--json` has all of them. */
const LISTED_MODULES = 10

export async function extractCommand(options: ExtractCommandOptions): Promise<void> {
  if (!/^\d{1,5}$/.test(options.rank)) throw new UserError(`--rank "${options.rank}" is not a rank; write e.g. 16.`)
  const folders = [await openBaseFolder(options.base), await openBaseFolder(options.tuned, 'tuned')]
  const started = performance.now()
  const progress = startProgress(!options.json)
  const opened: Base[] = []
  let report: ExtractReport
  try {
    for (const folder of folders) opened.push(await openBase(folder))
    const [base, tuned] = opened as [Base, Base]
    const settings = {
      rank: Number(options.rank),
      skipOthers: options.skipOthers ?? false,
      baseModelNameOrPath: options.base,
    }
    report = await writeFolder(
      options.out,
      (out) =>
        extractAdapter(base, tuned, settings, out, ({ stage, doneBytes, totalBytes }) =>
          progress.update(stage, doneBytes, totalBytes),
        ),
      () => progress.stop(),
    )
  } finally {
    progress.stop()
    for (const base of opened) await base.close()
  }
  const seconds = (performance.now() - started) / 1000
  const out = resolve(options.out)
  process.stdout.write(
    options.json ? `${JSON.stringify({ out, seconds, ...report })}\n` : summary(report, out, seconds),
  )
}

function summary(
  { modules, energyKept, frobeniusError, leftOut }: ExtractReport,
  out: string,
  seconds: number,
): string {
  const worst = [...modules].sort((a, b) => a.energyKept - b.energyKept).slice(0, LISTED_MODULES)
  const rows = worst.map(({ module, rank, energyKept }) => [module, String(rank), percent(energyKept)])
  const lines = [
    `adapter of ${modules.length} modules, ${percent(energyKept)} of the difference kept, error ${frobeniusError.toPrecision(4)}`,
    `${seconds.toFixed(1)} s → ${out}`,
    '',
    table(['module', 'r', 'energy kept'], rows),
    ...(leftOut.length === 0 ? [] : [`note: left out although different: ${leftOut.join(', ')}`]),
  ]
  return `${lines.join('\n')}\n`
}

function percent(share: number): string {
  return `${(100 * share).toFixed(3)} %`
}
