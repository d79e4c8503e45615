// What Vercel's AI SDK makes of the endpoint at process.argv[2], as one JSON object: a tool loop of two steps, its model
// reached in each of the SDK's ways, whole, and streamed where its default model is asked.
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

globalThis.AI_SDK_LOG_WARNINGS = false;
const baseURL = process.argv[2];
let sent = [];
async function watched(url, init) {
  sent.push(JSON.parse(init.body));
  return fetch(url, init);
}
const openai = createOpenAI({ baseURL, apiKey: "unused", fetch: watched });
const compatible = createOpenAICompatible({ name: "tandem", baseURL, apiKey: "unused" });
const get_weather = tool({
  description: "Weather of a city.",
  inputSchema: z.object({ city: z.string() }),
  execute: async () => "sunny",
});
const prompt = "What is the weather in Rome?";
const loop = { tools: { get_weather }, stopWhen: stepCountIs(3), temperature: 0, maxRetries: 0, prompt };

function told(steps, text) {
  return { text, steps: steps.length, calls: steps.flatMap((step) => step.toolCalls.map((call) => call.input)) };
}

async function toolLoop(model, options = {}) {
  sent = [];
  const done = await generateText({ ...loop, model, providerOptions: { openai: options } });
  const again = (sent[1]?.input ?? []).map((item) => item.type ?? item.role);
  return { ...told(done.steps, done.text), thought: done.reasoningText ?? null, again };
}

async function streamed() {
  const stream = streamText({ ...loop, model: openai("base") });
  let text = "";
  for await (const piece of stream.textStream) text += piece;
  return told(await stream.steps, text);
}

async function nextTurn() {
  const first = await generateText({ ...loop, model: openai("base") });
  const asked = { role: "user", content: "What is the capital of Italy?" };
  const messages = [{ role: "user", content: prompt }, ...first.response.messages, asked];
  const how = { model: openai("base"), temperature: 0, maxRetries: 0 };
  const providerOptions = { openai: { previousResponseId: first.providerMetadata.openai.responseId } };
  const whole = await generateText({ ...how, messages });
  const continued = await generateText({ ...how, prompt: asked.content, providerOptions });
  return { whole: whole.text, continued: continued.text };
}

async function object() {
  const output = Output.object({ schema: z.object({ city: z.string().max(12) }) });
  const asked = { model: openai("base"), prompt: "What is the capital of Italy?", maxOutputTokens: 300, output };
  return (await generateText({ ...asked, temperature: 0, maxRetries: 0 })).output;
}

console.log(
  JSON.stringify({
    responses: await toolLoop(openai("base")),
    summarised: await toolLoop(openai("base"), { reasoningSummary: "detailed", forceReasoning: true }),
    unstored: await toolLoop(openai("base"), { store: false, include: ["reasoning.encrypted_content"] }),
    chat: await toolLoop(openai.chat("base")),
    compatible: await toolLoop(compatible("base")),
    streamed: await streamed(),
    nextTurn: await nextTurn(),
    object: await object(),
  }),
);
