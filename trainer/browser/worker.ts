// The worker of a page: plans, or trains until the end or until it is told to stop. The page stays alive meanwhile.
import { inputError } from '../../compiler/errors.ts'
import { urlFolder } from '../../runtime/page.ts'
import { blobSource } from './blob-source.ts'
import { setUpDevice } from './device.ts'
import { sentences } from './failure.ts'
import { openJob } from './job.ts'
import { planInPage } from './plan.ts'
import type { Asked, FromWorker, ToWorker } from './protocol.ts'
import { saveRequest } from './saved-run.ts'
import { openStore } from './store.ts'
import { trainInPage } from './train.ts'

/** A page that was just left holds its runs until its worker has ended. */
const LOCK_WAIT_MS = 5000

const stopping = new AbortController()
const say = (message: FromWorker) => postMessage(message)
const failed = (error: unknown) => say({ kind: 'failed', problems: sentences(error) })

addEventListener('unhandledrejection', ({ reason }) => failed(reason))
addEventListener('message', ({ data }: MessageEvent<ToWorker>) => {
  if (data.kind === 'stop') stopping.abort()
  else (data.kind === 'plan' ? plan(data) : alone(data)).catch(failed)
})

function open({ base, data, settings }: Asked) {
  const folder = urlFolder(new URL(base, location.href))
  return { folder, job: () => openJob(folder, blobSource(data.name, data), settings) }
}

async function plan(asked: Asked): Promise<void> {
  say({ kind: 'plan', plan: await planInPage(await open(asked).job(), asked.settings) })
}

type Train = Extract<ToWorker, { kind: 'train' }>

/** Two tabs that write one run would leave neither's. */
function alone(message: Train): Promise<void> {
  const signal = AbortSignal.timeout(LOCK_WAIT_MS)
  return navigator.locks
    .request(`sidepath-run-${message.run}`, { signal }, () => train(message))
    .catch((error) => {
      if (!signal.aborted || error !== signal.reason) throw error
      throw inputError('train-state', 'this run is under way in another tab; go on there, or close that tab first')
    })
}

async function train({ asked, runtime, store, run, on }: Train): Promise<void> {
  const { folder: base, job: openIt } = open(asked)
  const [job, runs] = [await openIt(), await openStore(store)]
  const folder = runs.open(run)
  const { device, fit } = await planInPage(job, on ?? asked.settings)
  if (fit.problem !== undefined) throw inputError('train-option', fit.problem)
  if (on === undefined) {
    const { provider, threads } = device
    const { settings, data, baseName } = asked
    const request = { base: baseName, dataName: data.name, settings, provider, threads, steps: job.options.steps }
    await saveRequest(folder, { ...request, startedAt: Date.now() }, data)
  }
  await setUpDevice(device, runtime)
  say({ kind: 'began', device: device.name, notes: device.notes })
  const { baseName } = asked
  const result = await trainInPage({ job, base, baseName, device, folder, signal: stopping.signal }, (event) =>
    say({ kind: 'event', event }),
  )
  say({ kind: 'ended', result })
}
