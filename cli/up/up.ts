// `sidepath up`: the whole system on this machine, with the demo in it. Started again, it goes on where it was.
import { createWriteStream } from 'node:fs'
import type { ProviderChoice } from '../../gpu-backend/engine/provider-choice.ts'
import { serve } from '../../gpu-backend/serve.ts'
import { openDataFolder } from './data-folder.ts'
import { demoArtifact } from './demo-artifact.ts'
import { requireFreePort, startGateway } from './gateway-host.ts'
import { readOrMakeSecrets } from './secrets.ts'
import { seedDemo } from './seed.ts'
import { shutdownOnSignal } from './shutdown.ts'
import { backendOtlp, takeOtel } from './telemetry.ts'
import { welcome } from './welcome.ts'

export interface UpOptions {
  readonly port: number
  readonly backendPort: number
  readonly dataDir: string
  readonly provider: ProviderChoice
  /** MiB; 0: no prompt's beginning is reused. */
  readonly prefixCache: number
}

/** Resolves when everything is ready; the process then lives until SIGINT or SIGTERM. */
export async function up(options: UpOptions): Promise<void> {
  await requireFreePort(options.port, '--port')
  await requireFreePort(options.backendPort, '--backend-port')
  const folder = await openDataFolder(options.dataDir)
  const shutdown = shutdownOnSignal()
  await shutdown.opened(folder.unlock)
  try {
    const otel = takeOtel()
    const secrets = await readOrMakeSecrets(folder)
    const logFile = folder.join('up.log')
    const log = openLog(logFile)
    const artifact = await demoArtifact(folder)
    say(`${artifact.compiled ? 'compiled' : 'found'} the demo artifact ${artifact.id.slice(0, 12)}`)
    const backend = await serve({
      artifact: artifact.path,
      secret: secrets.capabilitySecret,
      port: options.backendPort,
      provider: options.provider,
      prefixBudgetBytes: options.prefixCache * 2 ** 20,
      // A mix of all of them fits a slot.
      bankRank: artifact.manifest.adapters.reduce((sum, { r }) => sum + r, 0),
      otlp: backendOtlp(otel),
      log: (event) => log(JSON.stringify({ tier: 'gpu-backend', time: new Date().toISOString(), ...event })),
    })
    await shutdown.opened(backend.close)
    const persistTo = folder.join('d1')
    const gateway = await startGateway({ port: options.port, secrets, persistTo, otel, log })
    await shutdown.opened(gateway.close)
    const demo = await seedDemo({ folder, gateway, secrets, backendUrl: backend.url, manifest: artifact.manifest })
    say(`backend on ${backend.url} (${backend.ready.provider}); logs in ${logFile}`)
    process.stdout.write(welcome(demo, folder.join('demo.json')))
  } catch (error) {
    // After a signal, whatever was under way fails because things close under it; that is no fault.
    if (await shutdown.now()) throw error
  }
}

/** Logs of both tiers, one JSON line each: the terminal is for what a person reads. */
function openLog(path: string): (line: string) => void {
  const stream = createWriteStream(path, { flags: 'a', mode: 0o600 })
  return (line) => stream.write(`${line}\n`)
}

function say(line: string): void {
  process.stdout.write(`${line}\n`)
}
