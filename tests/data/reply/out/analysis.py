"""Computes every figure of the answer from in/orders.csv."""

import pandas as pd

orders = pd.read_csv("in/orders.csv", sep=";", decimal=",")
print(len(orders))
