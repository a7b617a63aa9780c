// The page that trains: base, examples and settings → a plan → a run in a worker → an adapter. Runs outlive the page.
import { planTraining, type RunningTraining, startTraining, TrainingError } from '../trainer/browser/client.ts'
import type { Asked } from '../trainer/browser/protocol.ts'
import { type RunStore, STORES } from '../trainer/browser/run-store.ts'
import {
  type AdapterFile,
  isFinished,
  type Request,
  readAdapterFiles,
  readData,
  readHistory,
  readRequest,
} from '../trainer/browser/saved-run.ts'
import { newRunId, openStore } from '../trainer/browser/store.ts'
import { paths, Setup } from './contract.ts'
import { byId, fillList, fillTable } from './dom.ts'
import { readForm } from './form.ts'
import { planRows } from './plan-view.ts'
import { publish } from './publish.ts'
import { RunView } from './run-view.ts'
import { zip } from './zip.ts'

/** A person types on; the plan reads all examples. */
const PLAN_AFTER_MS = 250
/** The demo's base is small, and learns at a rate that would upset a larger one. */
const SAMPLE_RATE = 3e-3
/** Of this tab: survives a reload, and nothing else. */
const UNDER_WAY = 'sidepath-run'

const RUNTIME = { wasm: paths.wasm, script: paths.script }
const makeWorker = () => new Worker(paths.worker, { type: 'module', name: 'sidepath-train' })

interface Shown {
  readonly id: string
  readonly request: Request
}

class TrainPage {
  readonly #setup: Setup
  readonly #store: RunStore
  readonly #view = new RunView()
  readonly #form = byId('form', HTMLFormElement)
  readonly #trainButton = byId('train', HTMLButtonElement)
  #file: File | undefined
  #planning = new AbortController()
  #running: RunningTraining | undefined
  #shown: Shown | undefined

  constructor(setup: Setup, store: RunStore) {
    this.#setup = setup
    this.#store = store
  }

  async start(): Promise<void> {
    this.#fillBases()
    this.#listen()
    await this.#listRuns()
    const left = sessionStorage.getItem(UNDER_WAY)
    const request = left === null ? undefined : await this.#request(left)
    if (left !== null && request !== undefined) await this.#goOn({ id: left, request })
  }

  #fillBases(): void {
    const select = this.#form.elements.namedItem('base') as HTMLSelectElement
    select.replaceChildren(
      ...this.#setup.bases.map(({ name, bytes }) => new Option(`${name} (${(bytes / 1e6).toFixed(0)} MB)`, name)),
    )
    byId('sample-line', HTMLElement).hidden = this.#setup.sample === null
  }

  #listen(): void {
    const [input, drop] = [byId('file', HTMLInputElement), byId('drop', HTMLElement)]
    input.addEventListener('change', () => this.#take(input.files?.[0]))
    drop.addEventListener('dragover', (event) => {
      event.preventDefault()
      drop.classList.add('over')
    })
    drop.addEventListener('dragleave', () => drop.classList.remove('over'))
    drop.addEventListener('drop', (event) => {
      event.preventDefault()
      drop.classList.remove('over')
      this.#take(event.dataTransfer?.files[0])
    })
    this.#form.addEventListener('input', (event) => {
      if (event.target !== input) this.#planSoon()
    })
    this.#form.addEventListener('submit', (event) => {
      event.preventDefault()
      this.#doing(() => this.#begin())
    })
    this.#click('sample', () => this.#takeSample())
    this.#click('stop', async () => {
      this.#view.say('Stopping after this step …')
      this.#running?.stop()
    })
    this.#click('go-on', () => this.#goOn(this.#shownRun))
    this.#click('download', () => this.#download())
    this.#click('delete', () => this.#delete())
    byId('publish', HTMLFormElement).addEventListener('submit', (event) => {
      event.preventDefault()
      this.#doing(() => this.#publish())
    })
  }

  #click(id: string, act: () => Promise<void>): void {
    byId(id, HTMLButtonElement).addEventListener('click', () => this.#doing(act))
  }

  #doing(act: () => Promise<void>): void {
    act().catch((error) => {
      if (this.#shown === undefined) fillList(byId('plan-problems', HTMLElement), problemsOf(error))
      else this.#view.fail(problemsOf(error))
    })
  }

  get #shownRun(): Shown {
    if (this.#shown === undefined) throw new Error('sidepath bug: no run is shown')
    return this.#shown
  }

  async #takeSample(): Promise<void> {
    const answer = await fetch(paths.sample)
    if (!answer.ok) throw new Error(`the examples are not there: HTTP status ${answer.status}`)
    const rate = this.#form.elements.namedItem('learningRate') as HTMLInputElement
    rate.value = String(SAMPLE_RATE)
    this.#take(new File([await answer.blob()], this.#setup.sample ?? 'sample.jsonl'))
  }

  #take(file: File | undefined): void {
    if (file === undefined) return
    this.#file = file
    byId('file-name', HTMLElement).textContent = `${file.name}, ${(file.size / 1000).toFixed(1)} kB`
    this.#planSoon()
  }

  #asked(): Asked | undefined {
    const base = String(new FormData(this.#form).get('base') ?? '')
    if (this.#file === undefined || base === '') return undefined
    return { base: paths.base(base), baseName: base, data: this.#file, settings: readForm(this.#form) }
  }

  #planSoon(): void {
    this.#planning.abort()
    this.#planning = new AbortController()
    this.#trainButton.disabled = true
    const { signal } = this.#planning
    setTimeout(() => {
      if (!signal.aborted) this.#doing(() => this.#plan(signal))
    }, PLAN_AFTER_MS)
  }

  async #plan(signal: AbortSignal): Promise<void> {
    const asked = this.#asked()
    if (asked === undefined) return
    const [hint, table] = [byId('plan-hint', HTMLElement), byId('plan-table', HTMLElement)]
    const show = (problems: readonly string[], notes: readonly string[], rows: [string, string][]) => {
      hint.hidden = true
      table.hidden = rows.length === 0
      fillTable(byId('plan-rows', HTMLElement), rows)
      fillList(byId('plan-problems', HTMLElement), problems)
      fillList(byId('plan-notes', HTMLElement), notes)
      this.#trainButton.disabled = problems.length > 0 || this.#running !== undefined
    }
    try {
      const plan = await planTraining(makeWorker, asked, signal)
      show(plan.fit.problem === undefined ? [] : [plan.fit.problem], plan.device.notes, planRows(plan))
    } catch (error) {
      if (!signal.aborted) show(problemsOf(error), [], [])
    }
  }

  async #begin(): Promise<void> {
    const asked = this.#asked()
    if (asked === undefined || this.#running !== undefined) return
    // So that the browser does not clear the checkpoints when the disk runs low.
    await navigator.storage?.persist?.()
    const id = newRunId(Date.now())
    this.#shown = undefined
    this.#view.open(titleOf(asked.baseName, asked.data.name), 1, { train: [], held: [] })
    await this.#train(id, asked)
  }

  async #goOn({ id, request }: Shown): Promise<void> {
    if (this.#running !== undefined) return
    const { base, dataName, settings, provider, threads } = request
    await this.#show(id)
    if (!this.#setup.bases.some(({ name }) => name === base)) {
      this.#view.fail([`the base "${base}" is not among those that this page has; start it with that one again`])
      return
    }
    const data = await readData(this.#store.open(id), dataName)
    await this.#train(id, { base: paths.base(base), baseName: base, data, settings }, { provider, threads })
  }

  async #train(id: string, asked: Asked, on?: Pick<Request, 'provider' | 'threads'>): Promise<void> {
    this.#view.show('begins', 'Reading the base …')
    this.#trainButton.disabled = true
    const request = { asked, runtime: RUNTIME, store: this.#store.kind, run: id, ...(on && { on }) }
    this.#running = startTraining(makeWorker, request, {
      onBegan: ({ device, notes }) => {
        // From here on the run is kept, and a reload takes it up again.
        sessionStorage.setItem(UNDER_WAY, id)
        this.#view.note(notes)
        this.#view.say(`On ${device}`)
      },
      onEvent: (event) => {
        if (event.kind === 'step') this.#view.show('trains', 'Training')
        this.#view.add(event)
      },
    })
    try {
      await this.#running.ended
      this.#end()
      await this.#show(id)
    } catch (error) {
      this.#end()
      const request = await this.#request(id)
      this.#shown = request && { id, request }
      this.#view.show(request === undefined ? 'refused' : 'failed', 'It did not go on:')
      this.#view.fail(problemsOf(error))
    } finally {
      this.#planSoon()
      await this.#listRuns()
    }
  }

  #end(): void {
    this.#running = undefined
    sessionStorage.removeItem(UNDER_WAY)
  }

  #request(id: string): Promise<Request | undefined> {
    return readRequest(this.#store.open(id))
  }

  async #show(id: string): Promise<void> {
    const folder = this.#store.open(id)
    const request = await readRequest(folder)
    if (request === undefined) return
    this.#shown = { id, request }
    const [history, files] = [await readHistory(folder), await readAdapterFiles(folder)]
    this.#view.open(titleOf(request.base, request.dataName), request.steps, history)
    byId('publish-state', HTMLElement).textContent = ''
    fillList(byId('publish-problems', HTMLElement), [])
    byId('publish-name', HTMLInputElement).value = publicName(request.dataName)
    if (files !== undefined) this.#view.show('finished', sizeOf(files), this.#setup.publishes)
    else this.#view.show('paused', 'Not finished: it goes on from its last checkpoint.')
  }

  async #listRuns(): Promise<void> {
    const rows: HTMLElement[] = []
    for (const id of (await this.#store.ids()).sort().reverse()) {
      const folder = this.#store.open(id)
      const request = await readRequest(folder)
      // What a page left that ended while it saved a run.
      if (request === undefined) continue
      const done = await isFinished(folder)
      const text = document.createElement('span')
      const when = new Date(request.startedAt).toLocaleString()
      text.textContent = `${titleOf(request.base, request.dataName)}, ${when}${done ? '' : ', not finished'}`
      const open = document.createElement('button')
      open.type = 'button'
      open.textContent = 'Open'
      open.addEventListener('click', () => this.#running === undefined && this.#doing(() => this.#show(id)))
      const row = document.createElement('li')
      row.append(text, open)
      rows.push(row)
    }
    byId('runs', HTMLElement).hidden = rows.length === 0
    byId('runs-list', HTMLElement).replaceChildren(...rows)
  }

  async #adapter(): Promise<readonly AdapterFile[]> {
    const files = await readAdapterFiles(this.#store.open(this.#shownRun.id))
    if (files === undefined) throw new Error('the adapter of this run is not there any more; train again')
    return files
  }

  async #download(): Promise<void> {
    const link = document.createElement('a')
    link.href = URL.createObjectURL(zip(await this.#adapter()))
    link.download = `${publicName(this.#shownRun.request.dataName)}-adapter.zip`
    link.click()
    // The download has its own hold on the bytes once it has begun.
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000)
  }

  async #delete(): Promise<void> {
    const { id, request } = this.#shownRun
    if (!confirm(`Delete the run ${titleOf(request.base, request.dataName)} and its adapter from this browser?`)) return
    await this.#store.remove(id)
    this.#shown = undefined
    this.#view.close()
    await this.#listRuns()
  }

  async #publish(): Promise<void> {
    const [state, problems] = [byId('publish-state', HTMLElement), byId('publish-problems', HTMLElement)]
    const button = byId('publish-button', HTMLButtonElement)
    button.disabled = true
    fillList(problems, [])
    state.textContent = 'Sending …'
    try {
      const name = byId('publish-name', HTMLInputElement).value
      const found = await publish(this.#shownRun.request.base, name, await this.#adapter(), (now) => {
        state.textContent = now === 'queued' ? 'Waiting for the compiler …' : 'Compiling …'
      })
      state.textContent =
        found.manifest === null ? 'The compiler refused it:' : `Compiled beside its base: ${found.manifest}`
      fillList(problems, found.problems)
    } catch (error) {
      state.textContent = 'Not published:'
      fillList(problems, problemsOf(error))
    } finally {
      button.disabled = false
    }
  }
}

function titleOf(base: string, data: string): string {
  return `${data} on ${base}`
}

/** A file name as the name of a model. */
function publicName(file: string): string {
  const name = file
    .replace(/\.[^.]*$/, '')
    .toLowerCase()
    .replace(/[^a-z0-9._-]+/g, '-')
    .replace(/^[^a-z0-9]+/, '')
    .slice(0, 64)
  return name === '' ? 'adapter' : name
}

function sizeOf(files: readonly AdapterFile[]): string {
  const bytes = files.reduce((sum, file) => sum + file.bytes.length, 0)
  return `Finished. The adapter has ${(bytes / 1e6).toFixed(1)} MB.`
}

function problemsOf(error: unknown): readonly string[] {
  if (error instanceof TrainingError) return error.problems
  return [error instanceof Error ? error.message : String(error)]
}

async function main(): Promise<void> {
  const answer = await fetch(paths.setup)
  // `?store=indexeddb` keeps runs there though the browser has a file system.
  const kind = STORES.find((store) => store === new URLSearchParams(location.search).get('store'))
  await new TrainPage(Setup.parse(await answer.json()), await openStore(kind)).start()
}

main().catch((error) => {
  fillList(byId('plan-problems', HTMLElement), problemsOf(error))
})
