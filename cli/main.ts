// The command line: one thin shell per verb. Each verb's module is loaded only when it runs.
import { Command, InvalidArgumentError, Option } from 'commander'
import { PROVIDER_CHOICES } from '../gpu-backend/engine/provider-choice.ts'
import packageJson from '../package.json' with { type: 'json' }
import { fail } from './fail.ts'

export async function main(argv: string[]): Promise<void> {
  // Errors are printed by `fail`, so that every failure has the same shape and the right exit code.
  process.on('uncaughtException', fail)
  process.on('unhandledRejection', fail)
  await program().parseAsync(argv).catch(fail)
}

/** Checked here and not by commander, which would name a missing option before the typo that explains it. */
const REQUIRED: Readonly<Record<string, readonly string[]>> = {
  compile: ['base', 'out'],
  merge: ['base', 'adapter', 'out'],
  unmerge: ['base', 'adapter', 'out'],
  extract: ['base', 'tuned', 'rank', 'out'],
  combine: ['base', 'adapter', 'out'],
  export: ['artifact', 'out'],
  score: ['artifact'],
  doctor: ['base'],
  train: ['base', 'data', 'out'],
}

function program(): Command {
  const sidepath = new Command('sidepath')
    .description(
      'One frozen base model, many LoRA adapters, and each caller gets exactly what their permissions allow.',
    )
    .version(packageJson.version)
    .showHelpAfterError('(see --help)')
    .hook('preAction', (_, command) => {
      const missing = REQUIRED[command.name()]?.find((name) => command.getOptionValue(name) === undefined)
      if (missing !== undefined) command.error(`error: required option '--${missing}' not specified`)
    })

  sidepath
    .command('up')
    .description('start everything with the demo base, adapters, tenants and keys')
    .option('--port <port>', 'port of the gateway', parsePort, 8787)
    .option('--backend-port <port>', 'port of the inference backend', parsePort, 8788)
    .option('--data-dir <folder>', 'where the database, artifacts and secrets are kept', '.sidepath')
    .addOption(
      new Option('--provider <name>', 'what runs the model; auto takes a GPU where there is one')
        .choices(PROVIDER_CHOICES)
        .default('cpu'),
    )
    .option('--prefix-cache <MiB>', 'memory for prompts that may come again; 0 reuses nothing', parseMib, 256)
    .action(async (options) => (await import('./up/up.ts')).up(options))

  sidepath
    .command('console')
    .description('pages for a browser on this machine: train an adapter there, with nothing leaving it')
    .addOption(
      new Option(
        '--base <name=path>',
        'a base to train on: Hugging Face folder or GGUF; repeat; the demo without',
      ).argParser<string[]>((spec, before) => [...(before ?? []), spec]),
    )
    .option('--port <port>', 'port of the pages', parsePort, 8790)
    .option('--compiler <url>', 'a compiler service to publish adapters to; its token is SIDEPATH_COMPILER_TOKEN')
    .action(async (options) => (await import('./console.ts')).consoleCommand(options))

  sidepath
    .command('gateway')
    .description('the gateway on Node with libSQL; its secrets come from SIDEPATH_… variables')
    .option('--database <file>', 'a SQLite file, or the URL of a libSQL server', '.sidepath/gateway.db')
    .option('--port <port>', 'port of the gateway', parsePort, 8787)
    .option('--host <address>', 'address to listen on', '127.0.0.1')
    .option('--new-admin-key', 'print a new admin key, shown this once, and end')
    .option('--metrics-port <port>', 'count, and answer GET /metrics on this port; off without', parsePort)
    .option(
      '--metrics-host <address>',
      'address of /metrics; any but this machine needs SIDEPATH_METRICS_TOKEN',
      '127.0.0.1',
    )
    .addOption(
      new Option(
        '--durability <of usage>',
        'power: on the disk before a request goes on; process: with the system, and on the disk 0.1 s later; batch: all of that 0.1 s later',
      )
        .choices(['power', 'process', 'batch'])
        .default('power'),
    )
    .action(async (options) => (await import('./gateway/gateway.ts')).gatewayCommand(options))

  sidepath
    .command('can')
    .description('may this key use that model or mix, and which grant says so? Exit 0: yes, 3: no')
    .argument('<key>', 'a key, or its id')
    .argument('<model>', 'a public model name, or a mix')
    .option(
      '--gateway <url>',
      'address of the gateway; SIDEPATH_ADMIN_KEY is an admin key of it',
      'http://127.0.0.1:8787',
    )
    .option('--action <action>', 'infer, list, train, merge, promote or admin', 'infer')
    .option('--json', 'print the whole explanation')
    .action(async (key, model, options) => (await import('./can.ts')).canCommand(key, model, options))

  sidepath
    .command('replay')
    .description('make a decision again from its record, and say what has changed since. Exit 0: the same, 3: not')
    .argument('<receipt>', 'the x-sidepath-receipt of an answer, or a file that --save wrote: then no gateway is asked')
    .option(
      '--gateway <url>',
      'address of the gateway; SIDEPATH_ADMIN_KEY is an admin key of it',
      'http://127.0.0.1:8787',
    )
    .option('--save <file>', 'keep the record, to replay it without a gateway')
    .option('--json', 'print the result as JSON')
    .action(async (receipt, options) => (await import('./replay.ts')).replayCommand(receipt, options))

  sidepath
    .command('audit')
    .description("a gateway's audit trail")
    .command('verify')
    .description('follow the chain of hashes, and name the first row that breaks it. Exit 0: intact, 3: broken')
    .option(
      '--gateway <url>',
      'address of the gateway; SIDEPATH_ADMIN_KEY is an admin key of it',
      'http://127.0.0.1:8787',
    )
    .option('--expect <head>', 'a head that was printed earlier: it must still be there')
    .option('--json', 'print the result as JSON')
    .action(async (options) => (await import('./audit.ts')).auditVerifyCommand(options))

  storageOptions(sidepath.command('compile'))
    .description(
      'base + PEFT adapters → an artifact that keeps the base untouched: routed, or stacked at fixed weights',
    )
    .option(
      '--base <path>',
      'Hugging Face folder (config.json, model.safetensors), GGUF file, or exported ONNX: a file or a folder',
    )
    .addOption(adapterOption('name=folder, or a folder; name*weight=folder where stacked; repeat for more'))
    .addOption(new Option('--target <name>', 'one slot index per row, or all at once').choices(['routed', 'stacked']))
    .option('--out <folder>', 'where the artifact goes')
    .addOption(runOption())
    .option('--no-verify', 'do not hash and run what was made')
    .option('--json', 'print the result as JSON')
    .action(async (options) => (await import('./compile.ts')).compileCommand('routed', options))

  storageOptions(sidepath.command('merge'))
    .description('base + PEFT adapters → the deltas written into the weights: an artifact, or a checkpoint again')
    .option('--base <path>', 'Hugging Face folder (config.json, model.safetensors) or GGUF file')
    .addOption(adapterOption('name=folder or name*weight=folder; repeat to merge several'))
    .option('--out <folder>', 'where the result goes')
    .addOption(
      new Option('--format <name>', 'an ONNX artifact, or a Hugging Face folder in the float type of the base')
        .choices(['onnx', 'safetensors'])
        .default('onnx'),
    )
    .option('--threads <n>', 'safetensors: threads that compute; one a core')
    .addOption(runOption())
    .option('--no-verify', 'onnx: do not hash and run what was made')
    .option('--json', 'print the result as JSON')
    .action(async (options) =>
      options.format === 'safetensors'
        ? (await import('./merge.ts')).mergeCheckpointCommand(options)
        : (await import('./compile.ts')).compileCommand('merged', options),
    )

  sidepath
    .command('unmerge')
    .description(
      'a merged checkpoint − its adapters → a checkpoint near the base; the bits of the base do not come back',
    )
    .option('--base <folder>', 'the merged checkpoint')
    .addOption(adapterOption('name=folder or name*weight=folder, as they were merged; repeat for more'))
    .option('--out <folder>', 'where the result goes')
    .option('--threads <n>', 'threads that compute; one a core')
    .option('--json', 'print the result as JSON')
    .action(async (options) => (await import('./merge.ts')).unmergeCheckpointCommand(options))

  sidepath
    .command('extract')
    .description('two checkpoints → the PEFT adapter of a given rank that leads from one towards the other')
    .option('--base <folder>', 'the checkpoint to start from')
    .option('--tuned <folder>', 'the checkpoint to come near to')
    .option('--rank <r>', 'rank of the adapter')
    .option('--out <folder>', 'where the adapter goes')
    .option('--skip-others', 'leave out what a low rank cannot hold, such as norms that differ')
    .option('--json', 'print the result as JSON')
    .action(async (options) => (await import('./extract.ts')).extractCommand(options))

  sidepath
    .command('combine')
    .description('several PEFT adapters → one PEFT adapter')
    .option('--base <folder>', 'the base that they were trained for')
    .addOption(adapterOption('name=folder or name*weight=folder; repeat for more'))
    .option('--out <folder>', 'where the new adapter goes')
    .option(
      '--method <name>',
      'exact (cat), svd, linear, slerp, karcher, magnitude_prune, ties, dare_linear, dare_ties, each of these four with _svd, della, della_linear, breadcrumbs, breadcrumbs_ties',
      'exact',
    )
    .option('--rank <r>', 'rank of the result, for svd and the methods that end in one')
    .option('--density <share>', 'share of the entries that pruning keeps')
    .option('--epsilon <width>', 'della: spread of the drop probabilities')
    .option('--gamma <share>', 'breadcrumbs: share of the largest entries to drop')
    .option('--seed <n>', 'seed of dare and della')
    .option('--majority-sign <how>', 'ties: total or frequency')
    .option('--peft-compat [version]', "PEFT's own numbers, also where they differ from the algebra (0.21, or 0.20)")
    .option('--json', 'print the result as JSON')
    .action(async (options) => (await import('./combine.ts')).combineCommand(options))

  trainOptions(sidepath.command('train'))
    .description('a base + JSONL of examples → a run folder with a PEFT adapter; the base stays as it is')
    .option('--base <path>', 'Hugging Face folder (config.json, model.safetensors) or GGUF file')
    .option('--data <file>', 'JSONL: messages, or prompt and completion, or text, on each line')
    .option('--eval <file>', 'JSONL that is held out; a share of the data without')
    .option('--eval-share <share>', 'share of the data that is held out', '0.05')
    .option('--bad-lines <how>', 'lines that cannot be read: refuse, or skip', 'refuse')
    .option('--out <folder>', 'where the run goes: config.json, metrics.jsonl, loss.svg, adapter/')
    .option('--resume', 'go on with the run in --out from its last checkpoint')
    .option('--json', 'print the result as JSON')
    .action(async (options) => (await import('./train.ts')).trainCommand(options))

  trainOptions(sidepath.command('plan'))
    .description('what a training run would take: trained parameters, memory, time, cost; nothing is trained')
    .option('--base <path>', 'Hugging Face folder or GGUF file')
    .option('--data <file>', 'JSONL of examples, whose lengths then count')
    .option('--shape <OUTxIN>', 'one matrix alone, e.g. 10000x10000')
    .option('--price-per-hour <price>', 'of the machine, in any currency')
    .option('--json', 'print the result as JSON')
    .action(async (options) => (await import('./plan.ts')).planCommand(options))

  sidepath
    .command('compiler')
    .description('the compiler behind HTTP; the bearer token comes from SIDEPATH_COMPILER_TOKEN')
    .option('--port <port>', 'port to listen on', parsePort, 8789)
    .option(
      '--host <address>',
      'address to listen on; plain HTTP, so put TLS in front of any but loopback',
      '127.0.0.1',
    )
    .option('--data-dir <folder>', 'where uploads, jobs and artifacts are kept', '.sidepath/compiler')
    .option('--max-upload-gib <size>', 'largest file that may be uploaded', parseGib, 8)
    .option('--upload-quota-gib <size>', 'room for all uploads together', parseGib, 64)
    .option('--artifact-quota-gib <size>', 'room for all artifacts together', parseGib, 64)
    .action(async (options) => (await import('./compiler.ts')).compilerCommand(options))

  sidepath
    .command('verify <artifact>')
    .description('hash every file, run each form through both graphs, compare within bounds; exit 1 where one fails')
    .option('--base <folder>', 'the base that it was compiled from, to be compared with')
    .addOption(adapterOption('name=folder: the PEFT folder that an adapter was compiled from; repeat for more'))
    .option('--seed <n>', 'seed of the probes')
    .option('--json', 'print the result as JSON')
    .action(async (artifact, options) => (await import('./verify.ts')).verifyCommand(artifact, options))

  sidepath
    .command('inspect <path>')
    .description('what an adapter, a checkpoint, a safetensors, ONNX or .onnx_adapter file, or an artifact holds')
    .option('--json', 'print the result as JSON')
    .action(async (path, options) => (await import('./inspect.ts')).inspectCommand(path, options))

  sidepath
    .command('export')
    .description("an adapter of an artifact → an .onnx_adapter file, for ONNX Runtime's own adapter interface")
    .option('--artifact <folder>', 'a routed or stacked artifact')
    .option('--adapter <name>', 'an adapter of it; without, the whole of a stack')
    .option('--out <file>', 'where the .onnx_adapter file goes')
    .option('--json', 'print the result as JSON')
    .action(async (options) => (await import('./export.ts')).exportCommand(options))

  sidepath
    .command('score')
    .description('log-probability of each token of a text, and its perplexity')
    .option('--artifact <folder>', 'an artifact that compile or merge wrote')
    .option('--adapter <name>', 'an adapter of a routed artifact; the base without it')
    .addOption(new Option('--text <text>', 'the text').conflicts('tokenIds'))
    .addOption(new Option('--token-ids <ids>', 'token ids, separated by commas').argParser(parseTokenIds))
    .option('--json', 'print the result as JSON')
    .action(async (options) => (await import('./score.ts')).scoreCommand(options))

  sidepath
    .command('doctor <adapter...>')
    .description('are the ranks of adapters right, what do they share, what did they forget; exit 1 where a gate fails')
    .option('--base <path>', 'the base that they were trained for: Hugging Face folder or GGUF file')
    .option('--data <file>', 'text of their task, .txt or .jsonl: losses, and what each rank gains')
    .option('--general <file>', 'other text, .txt or .jsonl, on which forgetting is measured; a short story without')
    .option('--tokens <n>', 'tokens of each text to use; 4096 without')
    .option('--intruders <k>', 'look for intruders among the first k directions of each changed weight')
    .option('--gate <file>', 'thresholds that the report must meet')
    .option('--html <file>', 'write the report with plots, one file')
    .option('--compress-to <target>', 'of one adapter: a rank, or a share of its energy such as 0.99')
    .option('--out <folder>', 'where the compressed adapter goes')
    .option('--json', 'print the result as JSON')
    .action(async (adapters, options) => (await import('./doctor.ts')).doctorCommand(adapters, options))

  sidepath
    .command('pull <reference>')
    .description('a base or an adapter from the Hugging Face Hub, e.g. hf:OWNER/NAME or hf:OWNER/NAME@REVISION')
    .option('--out <folder>', "where it goes; the repository's name without")
    .addOption(
      new Option(
        '--include <pattern>',
        "files by pattern, e.g. '*.gguf', in place of the usual ones; repeat for more",
      ).argParser<string[]>((pattern, before) => [...(before ?? []), pattern]),
    )
    .option('--json', 'print the result as JSON')
    .action(async (reference, options) => (await import('./pull.ts')).pullCommand(reference, options))

  return sidepath
}

/** Whether the graphs of what was made are run. */
function runOption(): Option {
  return new Option(
    '--verify <how>',
    'graphs: run them against the sources, which takes several times the memory of the weights; files: hash only',
  ).choices(['auto', 'graphs', 'files'])
}

/** How an artifact's base is stored, and what that is measured on. */
function storageOptions(command: Command): Command {
  return quantiseOptions(command).option(
    '--eval-text <file>',
    'text whose perplexity is measured before and after; a short story without',
  )
}

/** How the base is stored. */
function quantiseOptions(command: Command): Command {
  const list = (text: string) => text.split(',').map((part) => part.trim())
  return command
    .option(
      '--quantize <method>',
      'store the base as int4, int8, nf4 or fp16; keep: a GGUF as it is; adapters stay float32',
    )
    .option('--block <size>', 'weights that share a scale: 16, 32, 64 or 128; 32, for nf4 64')
    .option('--affine', 'int4: any offset a block, as GGUF has; its default, the best of the three')
    .option('--asymmetric', 'a zero point a block, which other runtimes read too')
    .option('--symmetric', 'a scale a block and nothing else: the smallest, and coarse in 4 bits; default of int8')
    .option(
      '--method <name>',
      'rtn: round to the nearest; search: scales of the least squared error; gptq: by --calibration',
    )
    .option('--calibration <file>', 'of gptq: a text like what the model will see')
    .addOption(new Option('--keep <modules>', 'modules that stay float32, * for a part of a name').argParser(list))
    .addOption(new Option('--eight <modules>', 'modules that become int8 though others have 4 bits').argParser(list))
    .option('--activations <name>', 'beside int4 and int8, rounded to int8 or float; else int8 beside int8 only')
}

/** What is trained, and how. */
function trainOptions(command: Command): Command {
  const repeated = (text: string, before?: string[]) => [...(before ?? []), text]
  return quantiseOptions(command)
    .option('--r <rank>', 'rank of the factors', '8')
    .option('--alpha <alpha>', 'lora_alpha; twice the rank without')
    .option('--target-modules <names>', 'all-linear, attention, mlp, names with commas, or a regex', 'all-linear')
    .addOption(new Option('--rank-pattern <key=r>', 'another rank where the key matches; repeat').argParser(repeated))
    .addOption(new Option('--alpha-pattern <key=a>', 'another alpha where the key matches').argParser(repeated))
    .option('--rslora', 'scale by alpha / √r')
    .option('--dora', 'train the magnitude of each output as well')
    .option('--init <how>', 'what the factors begin as: default, or pissa', 'default')
    .option('--dropout <share>', 'share of a module’s inputs that a step leaves out', '0')
    .option('--lora-plus <ratio>', 'how many times faster B learns than A; 16 is usual', '1')
    .option('--lr <rate>', 'the highest learning rate', '5e-4')
    .option('--schedule <name>', 'cosine, linear or constant, after the warm-up', 'cosine')
    .option('--warm-up <steps>', 'steps of the warm-up; a tenth of all without, 100 at most')
    .option('--steps <n>', 'updates')
    .option('--epochs <n>', 'times that all data is seen, where --steps is not given', '3')
    .option('--weight-decay <share>', 'decoupled decay', '0')
    .option('--max-grad-norm <norm>', 'larger gradients are scaled down to it', '1')
    .option('--batch <rows>', 'rows of a run of the graph', '8')
    .option('--accumulate <runs>', 'runs of an update', '1')
    .option('--max-length <tokens>', 'longest example; 1024 without, or what the base has')
    .option('--packing', 'several examples in a row of the longest length; they do not see each other')
    .option('--recompute', 'compute activations twice, for less memory')
    .option('--seed <n>', 'of factors, order and dropout', '0')
    .option('--eval-every <steps>', 'steps between evaluations; a tenth of all without')
    .option('--patience <n>', 'end after so many evaluations without a gain, and keep the best')
    .option('--save-every <steps>', 'steps between checkpoints')
    .option('--threads <n>', 'threads that compute; one a core', '0')
}

function adapterOption(description: string): Option {
  return new Option('--adapter <spec>', description).argParser<string[]>((spec, before) => [...(before ?? []), spec])
}

function parsePort(text: string): number {
  const port = Number(text)
  if (!/^\d{1,5}$/.test(text) || port < 1 || port > 65_535) throw new InvalidArgumentError('a port is 1 to 65535.')
  return port
}

function parseMib(text: string): number {
  if (!/^\d{1,6}$/.test(text)) throw new InvalidArgumentError('a whole number of MiB, e.g. 256, or 0 for none.')
  return Number(text)
}

function parseGib(text: string): number {
  const gib = Number(text)
  if (!/^\d{1,6}(\.\d{1,6})?$/.test(text) || gib <= 0) throw new InvalidArgumentError('a size in GiB, e.g. 8 or 0.5.')
  return gib
}

function parseTokenIds(text: string): number[] {
  return text.split(',').map((part) => {
    const id = part.trim()
    if (!/^\d{1,9}$/.test(id)) throw new InvalidArgumentError(`"${id}" is not a token id; write e.g. 1,52,7.`)
    return Number(id)
  })
}
